"""Report: the night on one page, for people.

Reads:    every table that the night has published, health and volume of the weeks before it, the
          curves of its run in MLflow, names of items where there are some
Writes:   report.html in reports/ds=… under the root, and a copy of it in the night's MLflow run
If late:  nobody waits for it; all that it shows is in the tables.

It runs also where the night was stopped, and says which tables are missing or damaged. It is a file
beside the tables and not one of them: nothing is computed from it. The same tables give the same
bytes.
"""

from collections.abc import Iterator, Mapping
from datetime import date
from pathlib import Path
from types import MappingProxyType
from typing import Any

from schemas.command import Night, Stage, run
from schemas.errors import CorruptPartitionError
from schemas.partitions import Input, Partition, find
from schemas.promotions import find_ledger
from schemas.publishing import fsync
from schemas.reference import CHAIN
from schemas.settings import Settings
from trainer import report_data, report_models
from trainer.page import Kind, Mark, Page, Section, Summary, Table, Tile, change, render, share
from trainer.report_data import Tables
from trainer.report_models import AMONG, Scores, interval, label
from trainer.report_users import users
from trainer.tracking import TrackedRun, find_run

NIGHTLY = [contract for contract in CHAIN if contract.table != "events"]
FILE, TAG = "report.html", "penumbra.report"
STATES: dict[str, tuple[Kind, str]] = {
    "promote": ("good", "The gate promoted version {candidate}"),
    "hold": ("bad", "The gate held version {candidate}"),
    "awaiting": ("unclear", "Version {candidate} passed the gate and awaits a person's answer"),
    "inconclusive": ("unclear", "The evidence does not decide about version {candidate}"),
}
"""By what the gate says: a colour and the beginning of a sentence."""


def tables_of(root: Path, ds: date) -> Tables:
    """What the night has published, in the order of the chain, without what is damaged."""
    return _found(root, ds)[0]


def _found(root: Path, ds: date) -> tuple[dict[str, Partition], dict[str, str]]:
    tables, damage = dict[str, Partition](), dict[str, str]()
    for contract in NIGHTLY:
        try:
            is_ledger = contract.table == "promotions"
            found = find_ledger(root, ds) if is_ledger else find(root, contract, ds)
        except CorruptPartitionError as error:
            damage[contract.table] = str(error)
            continue
        if found:
            tables[contract.table] = found
    return tables, damage


def path_of(root: Path, ds: date) -> Path:
    """Where a night's report is."""
    return root / "reports" / f"ds={ds}" / FILE


def page_of(
    root: Path,
    ds: date,
    tables: Tables,
    settings: Settings,
    run: TrackedRun | None,
    damage: Mapping[str, str] = MappingProxyType({}),
) -> Page:
    """The night's page.

    Args:
        root: Folder of all tables, for what is of other days.
        ds: The night.
        tables: Of the night, by name.
        settings: Those of tonight.
        run: The night's run in MLflow, if there is one.
        damage: What is wrong with tables that are there and not among these.
    """
    scores, decision = report_models.scores_of(tables, settings), report_models.decision_of(tables)
    sections = [
        report_data.data_quality(root, ds, tables, settings),
        report_data.item_graph(ds, tables),
        report_data.soft_targets(ds, tables, settings),
        report_models.training(ds, tables, run),
        report_models.scorecard(ds, scores),
        report_models.slices(ds, scores),
        report_models.gate(decision),
        users(root, tables, settings),
        made_from(tables),
    ]
    summary = _summary(tables, scores, decision, settings, damage)
    name = settings.registry.model_name
    return Page(f"Night {ds}", f"{name}, nightly retraining", summary, sections)


def made_from(tables: Tables) -> Section:
    """The night's tables."""
    rows = [
        (m.table, f"{m.rows:,}", f"{m.seconds:.1f}", m.content_digest[:12])
        for m in (partition.manifest for partition in tables.values())
    ]
    return Section("Tables", (), [Table("Made from", ("table", "rows", "seconds", "digest"), rows)])


def _summary(
    tables: Tables,
    scores: Scores | None,
    decision: dict[str, Any] | None,
    settings: Settings,
    damage: Mapping[str, str],
) -> Summary:
    attention = [*_attention(tables, scores, decision, settings), *_absent(tables, damage)]
    tiles = list(_tiles(scores)) if scores else []
    confidence = share(settings.gate.confidence, 0)
    note = (
        f"Gains in {label(settings.gate.metric)}, each with its {confidence} interval over users."
    )
    if decision is None and "promotions" in damage:
        sentence = "The ledger is damaged, so this page cannot say what was decided."
        return Summary(Mark("unknown", "unclear"), sentence, tiles, note, attention)
    if decision is None:
        is_stopped = bool(_beyond(tables)) and not {"items"} & (tables.keys() | damage.keys())
        words = "stopped by its health" if is_stopped else "not finished"
        sentence = "No model was decided on; what served before serves on."
        return Summary(Mark(words, "bad"), sentence, tiles, note, attention)
    kind, sentence = STATES.get(
        decision["outcome"], ("unclear", "The gate decided about version {candidate}")
    )
    before, mode = decision["champion_version"], decision["mode"]
    sentence = sentence.format(candidate=decision["candidate_version"])
    sentence += f"; the champion was version {before}." if before else "; there was no champion."
    if "recommendations" in tables:
        versions = tables["recommendations"].read(["model_version"])["model_version"]
        sentence += f" Tonight's recommendations are version {versions[0].as_py()}'s."
    state = decision["outcome"] + (" (dry run)" if mode == "dry_run" else "")
    return Summary(Mark(state, kind), sentence, tiles, note, attention)


def _tiles(scores: Scores) -> Iterator[Tile]:
    seen, metric = scores.holdouts[0], scores.metric
    value = scores.value("candidate", seen, metric)
    if value is not None:
        about = f"{scores.num_users(seen, metric):,} users, {AMONG[seen]}"
        yield Tile(f"{label(metric)} of tonight's model", f"{value:.4f}", about)
    for model in scores.models(seen)[1:]:
        gain = scores.gain(model, seen, metric)
        if gain:
            low, high = gain.interval
            kind: Kind = "good" if low > 0 else "bad" if high < 0 else "quiet"
            yield Tile(f"gain over {scores.name(model)}", change(gain.value), interval(gain), kind)


def _attention(
    tables: Tables, scores: Scores | None, decision: dict[str, Any] | None, settings: Settings
) -> Iterator[str]:
    """Everything out of the ordinary, in the order of the chain."""
    for row in _beyond(tables):
        yield f"{row['metric'].replace('_', ' ').capitalize()} of the day is beyond its limit."
    if words := report_data.unconverged(tables, settings):
        yield words
    for model in scores.models(scores.holdouts[0])[1:] if scores else ():
        gain = scores.gain(model, scores.holdouts[0], scores.metric) if scores else None
        if scores and gain and gain.interval[1] < 0:
            yield f"The model is worse than {scores.name(model)}: {interval(gain)}."
    if decision and decision["outcome"] != "promote":
        yield f"The gate says {decision['outcome']}: {decision['reason']}."


def _absent(tables: Tables, damage: Mapping[str, str]) -> Iterator[str]:
    for table, words in damage.items():
        yield f"{table} is damaged: {words}."
    known = tables.keys() | damage.keys()
    absent = [contract.table for contract in NIGHTLY if contract.table not in known]
    if absent:
        yield f"Not published: {', '.join(absent)}."


def _beyond(tables: Tables) -> list[dict[str, Any]]:
    rows = tables["health"].read().to_pylist() if "health" in tables else []
    return [row for row in rows if row["verdict"] == "beyond"]


def _inputs(root: Path, ds: date, settings: Settings) -> list[Input]:
    return [partition.as_input() for partition in tables_of(root, ds).values()]


STAGE = Stage(
    module="trainer.report",
    doc=__doc__,
    writes=(),
    inputs=_inputs,
    settings=("report",),
    always=True,
)


def main(night: Night) -> None:
    """Writes the page and prints where it is."""
    tables, damage = _found(night.root, night.ds)
    if not tables and not damage:
        print(f"report {night.ds}: nothing was published, so there is no report", flush=True)
        return
    notes = tables["checkpoints"].manifest.notes if "checkpoints" in tables else {}
    tracked = find_run(night.root, night.settings, notes.get("mlflow_run_id"))
    html = render(page_of(night.root, night.ds, tables, night.settings, tracked, damage))
    path = path_of(night.root, night.ds)
    write(path, html, night.token)
    if tracked:
        tracked.client.log_artifact(tracked.id, str(path))
        tracked.client.set_tag(tracked.id, TAG, str(path))
    print(f"report {night.ds}: {path}", flush=True)


def write(path: Path, html: str, token: str) -> None:
    """Puts a file in the place of an older one; readers see the one or the other."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{token}")
    draft.write_text(html)
    fsync(draft)
    draft.replace(path)
    fsync(path.parent)


if __name__ == "__main__":
    run(STAGE, main)
