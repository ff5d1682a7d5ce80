"""Report data: the report's sections about the night's data, graph and soft targets."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from schemas.contract import Contract
from schemas.errors import CorruptPartitionError
from schemas.health import HEALTH
from schemas.interactions import INTERACTIONS
from schemas.partitions import Partition, find, published_dates
from schemas.settings import Settings
from trainer import figures, night_figures
from trainer.night_figures import Watched
from trainer.page import NONE, Mark, Section, Table, counted, number, picture, share, signed

Tables = Mapping[str, Partition]
"""The night's published tables by name."""

UNITS = {
    "volume": "interactions",
    "quarantine_rate": "share of rows",
    "freshness": "hours",
    "drift": "bits, 0 to 1",
}
VERDICTS = {
    "within": Mark("within", "good"),
    "beyond": Mark("beyond", "bad"),
    "not_judged": Mark("not judged", "quiet"),
}
KINDS = ("item", "user")


def missing(*tables: str) -> str:
    """What a section says in the place of tables that are not there, or damaged."""
    return f"There is no {' and no '.join(tables)} of the night to read, so nothing to show."


def data_quality(root: Path, ds: date, tables: Tables, settings: Settings) -> Section:
    """Where events went, the health table, and health over the days up to the night."""
    words, shown = [], []
    if "interactions" in tables:
        notes, valid = tables["interactions"].manifest.notes, tables["interactions"].manifest.rows
        if "events" in notes:
            words.append(
                f"{counted(notes['events'], 'event')} = {counted(valid, 'interaction')} + "
                f"{counted(notes['duplicates'], 'duplicate')} + "
                f"{notes['quarantine']:,} in quarantine."
            )
            reasons = sorted(notes["reasons"].items(), key=lambda pair: (-pair[1], pair[0]))
            if reasons:
                rows = [(reason.replace("_", " "), f"{count:,}") for reason, count in reasons]
                shown.append(Table("Why rows are in quarantine", ("reason", "rows"), rows))
    if "health" in tables:
        shown.insert(0, health_table(tables["health"].read().to_pylist()))
    else:
        words.append(missing("health"))
    days, first = health_days(root, ds, settings.report.nights), first_day(ds, settings)
    pictures = []
    if any(days.values()):
        about = (
            f"Volume, quarantine rate, freshness and drift per day from {first} to {ds}, with the "
            "limits of the nights that judged them"
        )
        pictures.append(picture(night_figures.health(days, first, ds), about))
    return Section("Data quality", words, shown, pictures)


def health_table(rows: list[dict[str, Any]]) -> Table:
    """Rows of the health table, in the order of the figure's panels."""
    order = list(night_figures.HEALTH_LABELS)
    cells = [
        (
            row["metric"].replace("_", " "),
            UNITS[row["metric"]],
            VERDICTS[row["verdict"]],
            *(number(row[name]) for name in ("value", "usual", "at_least", "at_most")),
            str(row["num_days"]),
        )
        for row in sorted(rows, key=lambda row: order.index(row["metric"]))
    ]
    head = ("number", "unit", "verdict", "tonight", "usual", "at least", "at most", "days compared")
    return Table("Watched numbers", head, cells, words=3)


def first_day(ds: date, settings: Settings) -> date:
    """First of the trailing days that are plotted."""
    return ds - timedelta(days=settings.report.nights - 1)


def health_days(root: Path, ds: date, num_days: int) -> dict[str, list[Watched]]:
    """The watched numbers of the trailing days by metric, oldest first.

    Days before the first night have no health: their volume and quarantine rate, which nobody
    judged, are those of their interactions.
    """
    found: dict[str, list[Watched]] = {metric: [] for metric in night_figures.HEALTH_LABELS}
    nights = set(published_dates(root, HEALTH))
    for day in published_dates(root, INTERACTIONS):
        if ds - timedelta(days=num_days) < day <= ds:
            watched = _judged(root, day) if day in nights else _unjudged(root, day)
            for metric, one in watched:
                found[metric].append(one)
    return found


def _sound(root: Path, contract: Contract, ds: date) -> Partition | None:
    """What another day has published; None where it is damaged, which that day's page says."""
    with suppress(CorruptPartitionError):
        return find(root, contract, ds)
    return None


def _judged(root: Path, ds: date) -> Iterator[tuple[str, Watched]]:
    partition = _sound(root, HEALTH, ds)
    for row in partition.read().to_pylist() if partition else []:
        if row["value"] is not None:
            facts = {name: row[name] for name in ("usual", "at_least", "at_most", "verdict")}
            yield row["metric"], Watched(ds, row["value"], **facts)


def _unjudged(root: Path, ds: date) -> Iterator[tuple[str, Watched]]:
    partition = _sound(root, INTERACTIONS, ds)
    if partition:
        rows, rejected = partition.manifest.rows, partition.manifest.notes.get("quarantine")
        yield "volume", Watched(ds, rows)
        if rejected is not None:
            yield "quarantine_rate", Watched(ds, rejected / (rows + rejected))


def item_graph(ds: date, tables: Tables) -> Section:
    """Counts of the graph, the items' degrees and the edges' weights."""
    if not {"item_graph", "items"} <= tables.keys():
        return Section("Item graph", [missing("item_graph")])
    graph, num_items = tables["item_graph"], tables["items"].manifest.rows
    notes, rows = graph.manifest.notes, graph.read(["item_index", "weight"])
    degrees = np.bincount(rows["item_index"].to_numpy(), minlength=num_items + 1)[1:]
    facts = {
        "items": num_items,
        "edges": len(rows),
        "items without an edge": int((degrees == 0).sum()),
        "median edges of an item": float(np.median(degrees)) if num_items else 0,
        "pairs of positions counted": notes.get("position_pairs"),
        "training positions": notes.get("training_positions"),
        "users": notes.get("users"),
        "longest history": notes.get("longest_history"),
        **_most(notes, "most_actions_of_an_item", "most_frequent_item"),
    }
    if "sequences" in tables:
        kept = tables["sequences"].manifest.notes
        facts["users with sequences.max_history"] = kept.get("users_at_max_history")
        facts |= _most(kept, "most_actions_of_a_user", "most_active_user")
    cells = [(name, number(value)) for name, value in facts.items() if value is not None]
    weights = rows["weight"].to_numpy()
    figure = night_figures.graph_shape(degrees, weights, f"{ds}, {num_items:,} items")
    about = "Histograms of the edges that leave an item and of the edges' weights"
    table = Table("Counts", ("what", "number"), cells)
    return Section("Item graph", (), [table], [picture(figure, about)])


def _most(notes: dict[str, Any], count: str, whose: str) -> dict[str, int | None]:
    """How many actions the most frequent item or the most active user has, and which one it is."""
    who = f" ({notes[whose]})" if whose in notes else ""
    return {count.replace("_", " ") + who: notes.get(count)}


def soft_targets(ds: date, tables: Tables, settings: Settings) -> Section:
    """Where mass went, how propagation converged, and what the targets know of validation."""
    if "soft_targets" not in tables:
        return Section("Soft targets", [missing("soft_targets")])
    notes, tolerance = tables["soft_targets"].manifest.notes, settings.soft_targets.tolerance
    kinds = {kind: notes[kind] for kind in KINDS if notes.get(kind)}
    words, shown, pictures = [], [], []
    if kinds:
        shown = [_mass_table(kinds), _hits_table(kinds)]
        words.append(
            "The hit rate says how many of the items that users went on to in the validation days "
            "are among a row's entries; beside it, how many are among as many of the most popular "
            "items."
        )
        about = "Mean share of mass kept by the seed, on other entries and cut, by kind of row"
        pictures.append(picture(figures.soft_target_mass(kinds, str(ds)), about))
    if iterations := notes.get("iterations"):
        subject = f"{ds}, {len(iterations)} iterations"
        figure = night_figures.convergence(iterations, tolerance, subject)
        pictures.append(picture(figure, "Residual of label propagation by iteration"))
    return Section("Soft targets", words, shown, pictures)


def unconverged(tables: Tables, settings: Settings) -> str | None:
    """What to say of a propagation that stopped above its tolerance, None of any other."""
    notes = tables["soft_targets"].manifest.notes if "soft_targets" in tables else {}
    iterations = notes.get("iterations") or [{"residual": 0.0}]
    residual, tolerance = iterations[-1]["residual"], settings.soft_targets.tolerance
    if residual <= tolerance:
        return None
    return f"Label propagation stopped at {residual:.2g}, above its tolerance of {tolerance:g}."


def _mass_table(kinds: Mapping[str, Any]) -> Table:
    head = ("seed", "rows", "mass kept by the seed", "mass cut", "entropy, nats", "items reached")
    rows = [
        (
            kind,
            f"{notes['rows']:,}",
            share(notes["mean_seed_mass"]),
            share(notes["mean_dropped_mass"]),
            signed(f"{notes['mean_entropy']:.2f}"),
            share(notes["coverage"]),
        )
        for kind, notes in kinds.items()
    ]
    return Table("Means over rows", head, rows)


def _hits_table(kinds: Mapping[str, Any]) -> Table:
    parts = {"validation": "all items", "validation_new_to_user": "new to the user"}
    rates = ("hit_rate", "popular_hit_rate")
    rows = [
        (
            kind,
            heading,
            f"{notes[part]['items']:,}",
            *(share(notes[part][rate]) if rate in notes[part] else NONE for rate in rates),
        )
        for kind, notes in kinds.items()
        for part, heading in parts.items()
        if part in notes
    ]
    head = ("seed", "among", "validation items", "hit rate", "popularity's hit rate")
    return Table("Hit rate on validation days", head, rows, words=2)
