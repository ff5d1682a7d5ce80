"""Report: what nights have published, read from manifests and tables, for people."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import date
from pathlib import Path

import pyarrow.compute as pc
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from schemas.errors import CorruptPartitionError
from schemas.health import HEALTH
from schemas.interactions import INTERACTIONS
from schemas.items import ITEMS
from schemas.names import names_of
from schemas.partitions import Manifest, began, find, get
from schemas.promotions import PROMOTIONS, read_ledger
from schemas.recommendations import RECOMMENDATIONS
from schemas.reference import CHAIN
from schemas.scorecards import SCORECARDS
from schemas.sequences import SEQUENCES

MODELS = ("candidate", "champion", "popularity", "item_knn", "buy_again")
METRICS = ("recall@10", "ndcg@10")
ORDINARY_HISTORY = 100
"""Actions of the user who is shown: the one nearest to this many."""
SHOWN = 10

Digests = dict[tuple[str, str], str]


def digests(root: Path, nights: Sequence[date]) -> Digests:
    """Content digest of every published table of the nights, by table and date."""
    return {(m.table, m.ds): m.content_digest for ds in nights for m in _manifests(root, ds)}


def show_night(root: Path, ds: date, console: Console, since: int = 0) -> None:
    """Prints a night's tables, quarantine and health, the models' quality, the gate's decision.

    Of what was published from `since` on (nanoseconds since 1970), as far as a night went.
    """
    manifests = [m for m in _manifests(root, ds) if began(m.run) >= since]
    published = {manifest.table for manifest in manifests}
    if not published:
        return
    console.print()
    console.print(_rows_table(ds, manifests))
    if INTERACTIONS.table in published:
        console.print(_quarantine_line(root, ds), highlight=False, soft_wrap=True)
    if HEALTH.table in published:
        console.print(_health_line(root, ds), highlight=False, soft_wrap=True)
    if SCORECARDS.table in published:
        console.print(_quality_table(root, ds))
    if PROMOTIONS.table in published:
        for line in _decision_lines(root, ds):
            console.print(line, highlight=False, soft_wrap=True)
    if RECOMMENDATIONS.table in published:
        console.print(f"Champion: version {_champion(root, ds)}", highlight=False)


def show_user(root: Path, ds: date, names_file: str, console: Console) -> None:
    """Prints one user's items so far beside the recommendations, by name."""
    user_id, history = _ordinary_history(root, ds)
    title = Text(f"User {user_id} on {ds}: {len(history)} actions", style="table.title")
    table = Table(title=title, title_justify="left")
    table.add_column("most often so far")
    table.add_column(f"recommended by model version {_champion(root, ds)}")
    counts: dict[str, int] = {}
    for item in history:
        counts[item] = counts.get(item, 0) + 1
    latest = {item: n for n, item in enumerate(history)}
    often = sorted(counts, key=lambda item: (-counts[item], -latest[item]))
    recommendations = get(root, RECOMMENDATIONS, ds).read()
    mine = recommendations.filter(pc.equal(recommendations["user_id"], user_id)).to_pylist()
    known = {*counts, *(row["item_id"] for row in mine)}
    names = names_of(root / names_file, known) if (root / names_file).is_file() else {}
    so_far = [f"{counts[item]} × {names.get(item, item)}" for item in often[:SHOWN]]
    advised = [
        f"{r['rank']}. {names.get(r['item_id'], r['item_id'])}"
        + (" (seen before)" if r["item_id"] in counts else "")
        for r in mine[:SHOWN]
    ]
    for n in range(max(len(so_far), len(advised))):
        table.add_row(Text("".join(so_far[n : n + 1])), Text("".join(advised[n : n + 1])))
    console.print()
    console.print(table)


def show_reports(root: Path, nights: Sequence[date], console: Console) -> None:
    """Prints where the nights' pages are, for a browser."""
    console.print()
    for ds in nights:
        path = root / "reports" / f"ds={ds}" / "report.html"
        if path.is_file():
            here = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
            console.print(f"Report of {ds}: {here}", highlight=False, markup=False, soft_wrap=True)


def _manifests(root: Path, ds: date) -> Iterator[Manifest]:
    for contract in CHAIN:
        with suppress(CorruptPartitionError):  # as good as not there: its stage makes it anew
            partition = find(root, contract, ds)
            if partition is not None:
                yield partition.manifest


def _rows_table(ds: date, manifests: Sequence[Manifest]) -> Table:
    table = Table(title=f"Night {ds}", title_justify="left")
    table.add_column("table")
    for name in ("rows", "seconds"):
        table.add_column(name, justify="right")
    table.add_column("digest")
    for m in manifests:
        table.add_row(m.table, f"{m.rows:,}", f"{m.seconds:.1f}", m.content_digest[:12])
    return table


def _quarantine_line(root: Path, ds: date) -> str:
    notes = get(root, INTERACTIONS, ds).manifest.notes
    rows = notes["events"] - notes["quarantine"] - notes["duplicates"]
    reasons = ", ".join(f"{count} {reason}" for reason, count in notes["reasons"].items())
    return (
        f"{notes['events']:,} events = {rows:,} interactions + {notes['duplicates']:,} duplicates "
        f"+ {notes['quarantine']:,} in quarantine" + (f" ({reasons})" if reasons else "")
    )


def _health_line(root: Path, ds: date) -> str:
    rows = get(root, HEALTH, ds).read().to_pylist()
    metrics = ", ".join(
        f"{row['metric']} {_short(row['value'])}"
        + (f" (usually {_short(row['usual'])})" if row["usual"] is not None else "")
        + ("" if row["verdict"] == "within" else f" {row['verdict'].replace('_', ' ')}")
        for row in rows
    )
    return f"Health: {metrics}"


def _short(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _quality_table(root: Path, ds: date) -> Table:
    cards = {
        (card["model"], card["exclude_seen"], card["metric"]): card
        for card in get(root, SCORECARDS, ds)
        .read(["model", "exclude_seen", "metric", "value", "num_users"])
        .to_pylist()
    }
    users = {seen: _num_users(cards, seen) for seen in (True, False)}
    table = Table(title="On the same holdout, whole catalogue ranked", title_justify="left")
    table.add_column("model")
    headings = (("new to the user", True), ("all products", False))
    for heading, new_only in headings:
        for metric in METRICS:
            heading_lines = f"{heading}\n{users[new_only]:,} users\n{metric}"
            table.add_column(heading_lines, justify="right")
    for model in MODELS:
        values = [cards.get((model, new_only, m)) for _, new_only in headings for m in METRICS]
        if any(values):
            table.add_row(model, *(f"{card['value']:.4f}" if card else "–" for card in values))
    return table


def _num_users(cards: Mapping[tuple[str, bool, str], dict], exclude_seen: bool) -> int:
    return max((c["num_users"] for k, c in cards.items() if k[1] == exclude_seen), default=0)


def _decision_lines(root: Path, ds: date) -> Iterator[str]:
    last = read_ledger(root, ds)[-1]
    before = last["champion_version"]
    yield (
        f"Gate{' (dry run)' if last['mode'] == 'dry_run' else ''}: "
        f"[bold]{last['outcome']}[/] version {last['candidate_version']}"
        f" ({'champion was version ' + str(before) if before else 'there was no champion'})"
    )
    for rule in json.loads(last["rules"]):
        yield f"  {rule['result']:10}  {rule['rule']}: {escape(rule['about'])}"
    yield f"  because {escape(last['reason'])}"
    if last["outcome"] == "awaiting":
        yield "  awaiting approval: a person answers in Airflow, under Required Actions"


def _champion(root: Path, ds: date) -> int:
    """Version of the model that made a night's recommendations."""
    versions = get(root, RECOMMENDATIONS, ds).read(["model_version"])["model_version"]
    return versions[0].as_py()


def _ordinary_history(root: Path, ds: date) -> tuple[str, list[str]]:
    """A user with about `ORDINARY_HISTORY` actions, and its items, oldest first."""
    item_ids = get(root, ITEMS, ds).read(["item_id"])["item_id"].to_pylist()
    sequences = get(root, SEQUENCES, ds).read(["user_id", "item_indices"])
    lengths = pc.list_value_length(sequences["item_indices"]).to_pylist()
    row = min(range(len(lengths)), key=lambda n: abs(lengths[n] - ORDINARY_HISTORY))
    chosen = sequences.slice(row, 1).to_pylist()[0]
    return chosen["user_id"], [item_ids[index - 1] for index in chosen["item_indices"]]
