"""Report models: the report's sections about training, scorecards, slices and the gate."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
import pyarrow.compute as pc

from schemas.settings import Settings
from trainer import figures, night_figures
from trainer.evidence import Gain, paired_gain
from trainer.night_figures import Comparison
from trainer.page import (
    NONE,
    Kind,
    Mark,
    Picture,
    Section,
    Table,
    change,
    number,
    picture,
    share,
)
from trainer.report_data import Tables, missing
from trainer.tracking import TrackedRun

MODELS = ("candidate", "champion", "popularity", "item_knn", "buy_again")
NAMES = {"item_knn": "item-kNN", "buy_again": "buy again"}
WHOLE = ("ndcg@10", "recall@10", "mrr@10", "coverage@10")
SLICES = ("new_users", "light_users", "heavy_users", "head_items", "tail_items")
AMONG = {True: "items new to the user", False: "all items"}
RESULTS: dict[str, Kind] = {"passed": "good", "failed": "bad", "unclear": "unclear"}
CURVES = [metric for lines in figures.PANELS.values() for metric in lines.values()]


def label(metric: str) -> str:
    """As one writes it: `NDCG@10`, `Recall@10`."""
    name, _, k = metric.partition("@")
    return f"{name.upper() if name in ('ndcg', 'mrr') else name.capitalize()}@{k}"


@dataclass(frozen=True)
class Scores:
    """The cards of one night that the report shows, by model, `exclude_seen` and metric."""

    cards: dict[tuple[str, bool, str], dict[str, Any]]
    settings: Settings
    champion_version: int | None

    @property
    def metric(self) -> str:
        """What the gate compares."""
        return self.settings.gate.metric

    @property
    def holdouts(self) -> list[bool]:
        """`exclude_seen` of the holdouts, the gate's first."""
        decisive = self.settings.evaluation.exclude_seen
        return [seen for seen in (decisive, not decisive) if self.models(seen)]

    def models(self, exclude_seen: bool) -> list[str]:
        """Who was scored on a holdout."""
        return [m for m in MODELS if (m, exclude_seen, self.metric) in self.cards]

    def name(self, model: str) -> str:
        """As people call it."""
        is_numbered = model == "champion" and self.champion_version
        return f"champion {self.champion_version}" if is_numbered else NAMES.get(model, model)

    def value(self, model: str, exclude_seen: bool, metric: str) -> float | None:
        """What a model reached, None where it was not measured."""
        card = self.cards.get((model, exclude_seen, metric))
        return card["value"] if card else None

    def num_users(self, exclude_seen: bool, metric: str) -> int:
        """Users of a metric."""
        cards = (self.cards.get((model, exclude_seen, metric)) for model in MODELS)
        return max((card["num_users"] for card in cards if card), default=0)

    def gain(self, model: str, exclude_seen: bool, metric: str) -> Gain | None:
        """Of the candidate over a model, with its interval."""
        own_B, other_B = (self._users(m, exclude_seen, metric) for m in ("candidate", model))
        return paired_gain(own_B, other_B, self.settings.gate)

    def _users(self, model: str, exclude_seen: bool, metric: str) -> np.ndarray:
        card = self.cards.get((model, exclude_seen, metric))
        return np.array(card["user_values"] if card else [], dtype=np.float64)


def scores_of(tables: Tables, settings: Settings) -> Scores | None:
    """What the night's scorecards say, None where there are none."""
    if "scorecards" not in tables:
        return None
    metric = settings.gate.metric
    wanted = {metric, *WHOLE, *(f"{metric}/{name}" for name in SLICES)}
    wanted |= {f"ndcg@10/{name}" for name in SLICES}
    rows = tables["scorecards"].read()
    rows = rows.filter(pc.is_in(rows["metric"], pc.cast(sorted(wanted), "string")))
    cards = {(r["model"], r["exclude_seen"], r["metric"]): r for r in rows.to_pylist()}
    versions = [i["run"] for i in tables["scorecards"].manifest.inputs if i["table"] == "champion"]
    return Scores(cards, settings, int(versions[0]) if versions else None)


def training(ds: date, tables: Tables, run: TrackedRun | None) -> Section:
    """What was trained on what, and its curves."""
    if "checkpoints" not in tables:
        return Section("Training", [missing("checkpoints")])
    checkpoint = tables["checkpoints"]
    (row,) = checkpoint.read().to_pylist()
    provenance = checkpoint.manifest.notes.get("provenance", {})
    facts = {
        "backbone": row["backbone"],
        "loss": row["loss"].replace("_", " "),
        "items": f"{row['num_items']:,}",
        "trained until": str(row["trained_until"]),
        "best epoch": str(row["best_epoch"]),
        "NDCG@10 on validation": number(row["validation_ndcg_10"])
        if row["validation_ndcg_10"]
        else NONE,
        "weights": row["weights_sha256"][:12],
        "commit": (provenance.get("commit") or NONE)[:12],
        "MLflow run": run.id if run else NONE,
    }
    words, pictures = [], []
    epochs = epochs_of(run) if run else []
    if epochs:
        subject = f"{row['backbone']}, {row['loss'].replace('_', ' ')} loss, {ds}"
        about = "Loss, its parts and validation NDCG@10, epoch by epoch"
        pictures.append(picture(figures.curves(epochs, subject), about))
    else:
        words.append("There are no training curves: the night's run in MLflow is not there.")
    return Section(
        "Training",
        words,
        [Table("Tonight's model", ("what", "value"), [*facts.items()], words=2)],
        pictures,
    )


def epochs_of(run: TrackedRun) -> list[dict[str, float]]:
    """Metrics of every epoch from the first, as MLflow keeps them."""
    epochs: dict[int, dict[str, float]] = {}
    for metric in CURVES:
        for point in run.client.get_metric_history(run.id, metric):
            epochs.setdefault(point.step, {})[metric] = point.value
    return [epochs[step] for step in sorted(epochs)]


def scorecard(ds: date, scores: Scores | None) -> Section:
    """Every model on both holdouts, and the candidate's gain over each other one."""
    if scores is None:
        return Section("Scorecard", [missing("scorecards")])
    shown, compared = [], {}
    confidence = share(scores.settings.gate.confidence, 0)
    for seen in scores.holdouts:
        users = f"{scores.num_users(seen, scores.metric):,} users"
        gains = {m: scores.gain(m, seen, scores.metric) for m in scores.models(seen)[1:]}
        rows = [_score_row(scores, seen, model, gains.get(model)) for model in scores.models(seen)]
        head = ["model", *map(label, WHOLE), "candidate's gain", f"{confidence} interval"]
        shown.append(Table(f"Among {AMONG[seen]}, {users}", head, rows))
        found = [Comparison(scores.name(m), g.value, g.interval) for m, g in gains.items() if g]
        if found:
            compared[f"among {AMONG[seen]}, {users}"] = found
    pictures = [_gains_picture(ds, scores, compared, confidence)] if compared else []
    words = [
        "All models rank the whole catalogue for the same users of the same holdout. Gain is "
        f"the candidate's in {label(scores.metric)} as a share of the other's mean (of 1 where it "
        "is 0), with a paired bootstrap interval over users. The gate looks at "
        f"{AMONG[scores.holdouts[0]]}."
    ]
    if scores.value("champion", scores.holdouts[0], scores.metric) is None:
        words.append("There was no champion to compare with.")
    return Section("Scorecard", words, shown, pictures)


def _score_row(scores: Scores, seen: bool, model: str, gain: Gain | None) -> tuple[str, ...]:
    values = [scores.value(model, seen, metric) for metric in WHOLE]
    return (
        scores.name(model),
        *(f"{value:.4f}" if value is not None else NONE for value in values),
        change(gain.value) if gain else NONE,
        interval(gain),
    )


def interval(gain: Gain | None) -> str:
    """Such as `−7.3 % to +10.6 %`."""
    return " to ".join(map(change, gain.interval)) if gain else NONE


def _gains_picture(
    ds: date, scores: Scores, compared: dict[str, list[Comparison]], confidence: str
) -> Picture:
    margin = scores.settings.gate.champion_margin
    subject = f"{ds}, {confidence} intervals"
    figure = night_figures.gains(compared, label(scores.metric), margin, subject)
    about = f"The candidate's gain in {label(scores.metric)} over each other model, with intervals"
    return picture(figure, about)


def slices(ds: date, scores: Scores | None) -> Section:
    """The gate's metric on slices of users and items, on the gate's holdout."""
    if scores is None:
        return Section("Slices", [missing("scorecards")])
    seen = scores.holdouts[0]
    models, has_champion = scores.models(seen), "champion" in scores.models(seen)
    rows = []
    for name in SLICES:
        metric = f"{scores.metric}/{name}"
        values = [scores.value(model, seen, metric) for model in models]
        if any(value is not None for value in values):
            gain = scores.gain("champion", seen, metric) if has_champion else None
            more = [change(gain.value) if gain else NONE, interval(gain)] if has_champion else []
            cells = [f"{value:.4f}" if value is not None else NONE for value in values]
            users = f"{scores.num_users(seen, metric):,}"
            rows.append((name.replace("_", " "), users, *cells, *more))
    more = ["gain over champion", "interval"] if has_champion else []
    head = ["slice", "users", *map(scores.name, models), *more]
    if not rows:
        return Section("Slices", ["No slice was measured."])
    table = Table(f"{label(scores.metric)} by slice, among {AMONG[seen]}", head, rows)
    cards = list(scores.cards.values())
    figure = figures.ndcg_by_slice(cards, str(ds), exclude_seen=seen)
    about = "Mean NDCG@10 of every model, over all users and by slice"
    return Section("Slices", (), [table], [picture(figure, about)])


def decision_of(tables: Tables) -> dict[str, Any] | None:
    """The night's last decision, None where there is none."""
    rows = tables["promotions"].read().to_pylist() if "promotions" in tables else []
    return rows[-1] if rows else None


def gate(decision: dict[str, Any] | None) -> Section:
    """Every rule with what it found."""
    if decision is None:
        return Section("Gate", [missing("promotions")])
    rules: Sequence[dict[str, Any]] = json.loads(decision["rules"])
    rows = [
        (r["rule"], Mark(r["result"], RESULTS.get(r["result"], "quiet")), r["about"]) for r in rules
    ]
    head = ("rule", "result", "what it found")
    table = Table("All rules were tried", head, rows, words=3, is_wordy=True)
    return Section("Gate", [f"{decision['outcome'].capitalize()}: {decision['reason']}."], [table])
