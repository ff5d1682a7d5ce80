"""Evaluation: tonight's model, the champion and simple baselines on the same frozen holdout.

Every model sees train and validation actions and ranks the whole catalogue for the same users,
once among all items and once among those new to the user (discovery). The champion is scored
anew with its own catalogue; items that it does not know are never found by it. Every per-user
metric is measured on slices of users and items too (`trainer/slices.py`).

Reads:    checkpoints, items, sequences, promotions, the registered champion
Writes:   scorecards; figures to the checkpoint's run in MLflow; the end of a promotion that was
          interrupted
If late:  promotion waits; yesterday's champion keeps serving.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from torch import Tensor

from schemas.checkpoints import CHECKPOINTS
from schemas.command import Night, Stage, run
from schemas.errors import DataError
from schemas.items import ITEMS
from schemas.partitions import Input, Partition, get
from schemas.scorecards import SCORECARDS
from schemas.sequences import SEQUENCES
from schemas.settings import Settings
from trainer import figures, scorer
from trainer.baselines import BASELINES, ScoreUsers
from trainer.histories import Histories
from trainer.holdout import Card, Holdout, holdout_of, score_holdout
from trainer.ledger import opponent
from trainer.operations import exclusive
from trainer.ranking import users_at_once
from trainer.registry import Registry
from trainer.scorer import Scorer
from trainer.slices import slices_of
from trainer.tracking import find_run
from trainer.versions import CHAMPION, Version, numbers_in

PRINTED = ("recall@10", "ndcg@10")
DEFINE_SLICES = {"light_history", "heavy_history", "head_share"}


@dataclass(frozen=True)
class Contender:
    """A trained model under its own catalogue; `new_index` leads there from tonight's."""

    name: str
    weights_sha256: str
    scorer: Scorer
    new_index: np.ndarray

    def score(self, histories: Histories, users: np.ndarray) -> Tensor:
        """Scores [B, V + 1] of tonight's catalogue; -inf for items the model does not know."""
        own = histories.take(users).renumbered(self.new_index)
        return self.scorer.score(own)[:, self.new_index]


@dataclass(frozen=True)
class Scored:
    """One model's card on one holdout; `digest` is empty for a baseline."""

    model: str
    digest: str
    holdout: Holdout
    card: Card


def contender(name: str, weights_sha256: str, model: Scorer, item_ids: list[str]) -> Contender:
    """A model prepared for tonight's catalogue.

    Args:
        name: Its name in the scorecards.
        weights_sha256: Of its weights.
        model: The model.
        item_ids: Tonight's raw ids; entry j - 1 is `item_index` j.
    """
    return Contender(name, weights_sha256, model, model.renumbering(item_ids))


def evaluate(
    sequences: pa.Table, num_items: int, contenders: list[Contender], settings: Settings
) -> list[Scored]:
    """Scores contenders and baselines, with and without what users have already.

    Args:
        sequences: Rows of tonight's sequences table.
        num_items: V of tonight's catalogue.
        contenders: Trained models.
        settings: The evaluation section.

    Returns:
        A card of every model on each holdout, slices included; buy-again has none in discovery.

    Raises:
        DataError: No user has anything to find, or a score is not finite.
    """
    cards = []
    holdouts = [holdout_of(sequences, num_items, exclude_seen=seen) for seen in (False, True)]
    baselines = {name: make(holdouts[0].counts) for name, make in BASELINES.items()}
    for holdout in holdouts:
        exclude_seen = holdout.exclude_seen
        if not len(holdout) and exclude_seen == settings.evaluation.exclude_seen:
            raise DataError(
                f"no user with {'a new' if exclude_seen else 'an'} item in the holdout",
                f"at least one of {len(holdout.counts.indptr) - 1} users",
                ("evaluation.exclude_seen, " if exclude_seen else "")
                + f"{settings.split.sizes} and events.history_days in the settings, or the events",
            )
        if len(holdout):
            slices = slices_of(holdout.counts, holdout.users, settings.evaluation)
            size = users_at_once(settings.evaluation.batch_size, num_items)
            for name, digest, score, is_softmax in _scored(holdout, contenders, baselines):
                card = score_holdout(holdout, score, size, slices, is_probabilistic=is_softmax)
                cards.append(Scored(name, digest, holdout, card))
    return cards


def _scored(
    holdout: Holdout, contenders: list[Contender], baselines: dict[str, ScoreUsers]
) -> Iterator[tuple[str, str, ScoreUsers, bool]]:
    for one in contenders:
        is_softmax = one.scorer.is_probabilistic
        yield one.name, one.weights_sha256, partial(one.score, holdout.histories), is_softmax
    for name, score in baselines.items():
        if not (holdout.exclude_seen and name == "buy_again"):  # it has nothing to say there
            yield name, "", score, False


def scorecard_rows(cards: list[Scored], holdout_digest: str) -> list[dict[str, Any]]:
    """The scorecards table of what was scored."""
    rows = []
    nobody = np.empty(0)
    for scored in cards:
        all_users = len(scored.holdout)
        per_user = [(name, v.mean(), v, len(v)) for name, v in scored.card.user_values.items()]
        catalogue = [(name, v, nobody, all_users) for name, v in scored.card.values.items()]
        for metric, value, user_values, num_users in per_user + catalogue:
            rows.append(
                {
                    "model": scored.model,
                    "model_digest": scored.digest,
                    "exclude_seen": scored.holdout.exclude_seen,
                    "metric": metric,
                    "value": float(value),
                    "num_users": num_users,
                    "holdout_digest": holdout_digest,
                    "user_values": user_values.astype(np.float32),
                }
            )
    return rows


def table_lines(cards: list[Scored]) -> Iterator[str]:
    """What was scored, for people: one line per model, both holdouts side by side."""
    shown = {(c.model, c.holdout.exclude_seen): c.card.user_values for c in cards}
    heads = [f"{metric} {part}" for part in ("all", "new") for metric in PRINTED]
    yield f"{'':12}" + "".join(f"{head:>15}" for head in heads)
    for model in dict.fromkeys(c.model for c in cards):
        cells = ""
        for exclude_seen in (False, True):
            values = shown.get((model, exclude_seen))
            for metric in PRINTED:
                cells += f"{values[metric].mean():15.4f}" if values else f"{'–':>15}"
        yield f"{model:12}{cells}"


def _log_figures(
    night: Night, checkpoint: Partition, cards: list[Scored], rows: list[dict[str, Any]]
) -> None:
    """Adds what was scored to the candidate's run in MLflow, where there still is one."""
    run = find_run(night.root, night.settings, checkpoint.manifest.notes.get("mlflow_run_id"))
    if run is None:
        return
    seen = night.settings.evaluation.exclude_seen
    candidate = next(c for c in cards if c.holdout.exclude_seen == seen)  # scored before the others
    bins = candidate.card.calibration
    run.log_figures(figures.of_evaluation(rows, bins, run.subject, seen))


def has_seen_holdout(trained_until: date | None, ds: date, settings: Settings) -> bool | None:
    """Whether a model trained on days of tonight's holdout; None where it cannot be said."""
    if trained_until is None or settings.split.protocol != "temporal":
        return None
    return trained_until > ds - timedelta(days=settings.split.holdout_days)


def _champion(root: Path, ds: date, settings: Settings, checkpoint: Partition) -> Version | None:
    (row,) = checkpoint.read(["weights_sha256", "trained_until"]).to_pylist()
    registry = Registry(root, settings)
    # A move that a killed promotion left half-done is finished before anyone is compared with it.
    with exclusive(registry):
        return opponent(registry, ds, row["weights_sha256"], row["trained_until"])


def _inputs(root: Path, ds: date, settings: Settings) -> list[Input]:
    read = [get(root, contract, ds) for contract in (CHECKPOINTS, ITEMS, SEQUENCES)]
    champion = _champion(root, ds, settings, read[0])
    return [*(p.as_input() for p in read), *([champion.as_input()] if champion else [])]


STAGE = Stage(
    module="trainer.evaluation",
    doc=__doc__,
    writes=(SCORECARDS,),
    inputs=_inputs,
    settings=("evaluation", "split"),
)


def main(night: Night) -> None:
    """Scores the night's models and publishes the scorecards."""
    checkpoint, items, sequences = (
        get(night.root, contract, night.ds) for contract in (CHECKPOINTS, ITEMS, SEQUENCES)
    )
    item_ids = items.read(["item_id"])["item_id"].to_pylist()
    (row,) = checkpoint.read().to_pylist()
    if row["sequences_digest"] != sequences.manifest.content_digest:
        raise DataError(
            f"a model trained on sequences {row['sequences_digest'][:12]}",
            f"one trained on those published, {sequences.manifest.content_digest[:12]}",
            f"re-run python -m trainer.training --ds {night.ds}, then this stage",
        )
    tonight = scorer.from_checkpoint(checkpoint, items)
    contenders = [contender("candidate", row["weights_sha256"], tonight, item_ids)]
    trained_until = {"candidate": row["trained_until"], CHAMPION: None}
    registry = Registry(night.root, night.settings)
    for champion in map(registry.get, numbers_in(night.inputs)):
        trained_until[CHAMPION] = champion.trained_until
        model = scorer.from_folder(registry.download(champion))
        contenders.append(contender(CHAMPION, champion.weights_sha256, model, item_ids))
    cards = evaluate(sequences.read(), len(item_ids), contenders, night.settings)
    rows = scorecard_rows(cards, sequences.manifest.content_digest)
    _log_figures(night, checkpoint, cards, rows)
    scorecards = night.draft(SCORECARDS)
    for name, day in trained_until.items():
        has_seen = has_seen_holdout(day, night.ds, night.settings)
        scorecards.notes[f"{name}_has_seen_holdout"] = has_seen
    scorecards.notes["slices"] = night.settings.evaluation.model_dump(include=DEFINE_SLICES)
    scorecards.write(pa.Table.from_pylist(rows, schema=SCORECARDS.schema))
    night.publish(scorecards)
    print("\n".join(table_lines(cards)), flush=True)


if __name__ == "__main__":
    run(STAGE, main)
