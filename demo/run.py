"""Run: two nights on real grocery purchases through Airflow, and what came of them.

    make demo          loads the events, runs the nights of 2017-10-30 and 2017-10-31, reports
    make night DS=2017-10-31 [ROOT=var] [SETTINGS=pipeline.toml]
                       runs one night on whatever events are under ROOT

Under `var/` are then: `events/` and `catalogue/` (made here), `tables/`, the model registry,
`logs/` and an Airflow of its own in `airflow/`. Running it again changes nothing and says so.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from datetime import date
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from demo.airflow_home import PROJECT, environment
from demo.load_events import NIGHTS, SETTINGS_FILE, load_events
from demo.nights import START_LOG, Result, run_nights
from demo.report import digests, show_night, show_reports, show_user
from schemas.command_line import Parser, parse_date
from schemas.errors import PenumbraError
from schemas.process import interrupt_when_told_to_end
from schemas.settings import load


def main(arguments: Sequence[str]) -> int:
    """Runs what the command line asks for; 1 where a night fails."""
    console = Console()
    interrupt_when_told_to_end()
    try:
        return _run(_parse(arguments), console)
    except KeyboardInterrupt:
        console.print("Interrupted; nothing unfinished is visible, run it again to go on.")
        return 130
    except PenumbraError as error:
        print(f"demo.run: {type(error).__name__}: {error}", file=sys.stderr)
        return error.exit_code


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = Parser(
        "python -m demo.run", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--nights",
        nargs="+",
        type=partial(parse_date, "DS"),
        metavar="YYYY-MM-DD",
        help="run these on the events under the root, instead of the demo's",
    )
    parser.add_argument("--root", type=Path, default=Path("var"), help="folder of all tables (var)")
    parser.add_argument("--settings", type=Path, help="a TOML file (demo/pipeline.toml)")
    parser.add_argument("--force", action="store_true", help="work even where nothing changed")
    return parser.parse_args(arguments)


def _run(options: argparse.Namespace, console: Console) -> int:
    started, root = time.monotonic(), options.root.expanduser().resolve()
    default = PROJECT / "pipeline.toml" if options.nights else SETTINGS_FILE
    settings_file = (options.settings or default).expanduser().resolve()
    settings = load(settings_file)
    nights = sorted(options.nights or NIGHTS)
    if not options.nights:
        loaded = load_events(root, settings, nights)
        console.print(
            f"Events: {loaded.num_events:,} of {loaded.num_days} days, "
            f"{loaded.num_files_written} files written under {options.root}",
            highlight=False,
        )
    before = digests(root, nights)
    conf = {"force": True} if options.force else {}
    begun = time.time_ns()
    results = run_nights(nights, root, environment(root, settings_file), conf, console)
    for result in results:
        if not result.skipped:
            # Of a night that failed nothing older stands there as if it were its result.
            since = 0 if result.state == "success" else begun
            show_night(root, result.ds, console, since)
    if not _all_succeeded(results, nights, root, console):
        return 1
    done = [result.ds for result in results if not result.skipped]
    if done:
        show_user(root, done[-1], settings.report.names, console)
        show_reports(root, done, console)
    minutes, seconds = divmod(round(time.monotonic() - started), 60)
    console.print(f"\n{_summary(before, digests(root, done), done)} {minutes} min {seconds} s.")
    return 0


def _all_succeeded(
    results: Sequence[Result], nights: Sequence[date], root: Path, console: Console
) -> bool:
    for result in results:
        if result.skipped:
            console.print(f"Night {result.ds} skipped: {result.skipped}", highlight=False)
        if result.state == "success" and not (result.stage_seconds or result.skipped):
            console.print(
                f"[red]Airflow ran no task of {result.ds}[/]: found a day before "
                "schedule.start_date; expected one from there on; fix: set it to an earlier day",
                highlight=False,
            )
            return False
        for stage, error in result.errors.items():  # the report may fail in a night that succeeds
            console.print(f"\n[red]{stage} of {result.ds} failed:[/]", highlight=False)
            console.print(error, highlight=False, markup=False, soft_wrap=True)
        if result.state != "success":
            console.print(f"Everything it said: {result.log}", highlight=False, soft_wrap=True)
            return False
    if len(results) < len(nights):
        log = root / "logs" / START_LOG
        last = "".join(log.read_text().splitlines()[-1:])
        console.print("[red]Airflow did not start:[/]", escape(last), soft_wrap=True)
        console.print(f"Everything it said: {log}", highlight=False, soft_wrap=True)
        return False
    return True


def _summary(before: dict, after: dict, nights: Sequence[date]) -> str:
    counted = f"{len(nights)} night{'s' if len(nights) != 1 else ''}, {len(after)} tables"
    if before and before == after:
        return f"Nothing changed: {counted}, same digests."
    changed = sum(before.get(key) != digest for key, digest in after.items())
    return f"Done: {counted}, {changed} of them new or changed."


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
