"""Nights: runs dates through the embedded Airflow and shows what goes on, a line per stage.

Everything Airflow and the stages say goes to `<root>/logs/night-<ds>.log`; what is shown is read
from the same lines: the operator's start, the stages' closing lines, the first words of an error.
"""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import IO, Any

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from demo.airflow_home import PROJECT
from schemas.process import PARENT_VARIABLE

START_LOG = "airflow-start.log"
"""What is said before the first night."""
AROUND = r"^\S+ \[\w+ *\] (.*?)(?: +\[airflow\.task[^]]*\] loc=\S+)?$"
"""Airflow's console format around what a task logs."""
STARTED = re.compile(r"(\w+) started: .*--ds \d{4}-\d{2}-\d{2}")
CLOSED = re.compile(r"(\w+) (\S+): (published|unchanged since) ([\d,]+) rows in [\d.]+ s, digest")
FAILED = re.compile(r"(\w+) failed: (?:exit code -?\d+, )?(.*)")
SKIPPED = re.compile(r"(\w+) skipped: (.*)")
ENDED = re.compile(r"\[DAG TEST\] end task task_id=(\w+)")
NIGHT = re.compile(r"^night (\d{4}-\d{2}-\d{2}): (\w+)$")


@dataclass
class Result:
    """What became of one night."""

    ds: date
    log: Path
    state: str = "running"
    seconds: float = 0.0
    stage_seconds: dict[str, float] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    skipped: str = ""
    num_published: int = 0


@dataclass
class _Stage:
    """The stage that runs now, and the tables it has published of its night."""

    name: str
    started: float
    tables: list[str] = field(default_factory=list)
    num_other_days: int = 0


def run_nights(
    nights: Sequence[date],
    root: Path,
    environment: Mapping[str, str],
    conf: Mapping[str, Any],
    console: Console,
) -> list[Result]:
    """Runs nights in order through Airflow, in one process; ends with the first that fails.

    Args:
        nights: Dates, oldest first.
        root: Folder of all tables; logs go to `logs` under it.
        environment: Of the Airflow process.
        conf: Parameters of the runs.
        console: Where progress is shown.

    Returns:
        One result for each night that was begun.
    """
    command = [sys.executable, "-m", "dags.embedded", *map(str, nights), "--conf", json.dumps(conf)]
    airflow = subprocess.Popen(
        command,
        cwd=PROJECT,
        env={**environment, PARENT_VARIABLE: str(os.getpid())},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    try:
        assert airflow.stdout is not None
        with airflow.stdout as output:
            results = _follow(output, root / "logs", console)
        airflow.wait()
    finally:
        # Airflow takes SIGINT and SIGTERM for the end of a task, and would try it again.
        airflow.kill()
        airflow.wait()
    for result in results[-1:]:
        if result.state == "running":
            result.state = "failed"
            result.errors["airflow"] = f"ended with exit code {airflow.returncode}"
    return results


def _follow(output: IO[str], logs: Path, console: Console) -> list[Result]:
    """Writes output to the nights' logs and shows its progress, to its end."""
    logs.mkdir(parents=True, exist_ok=True)
    results: list[Result] = []
    log = (logs / START_LOG).open("w")
    with _spinner(console) as show:
        show("Airflow starts")
        began = time.monotonic()
        stage = None
        for line in output:
            if (match := NIGHT.match(line)) and match[2] == "started":
                log.close()
                result = Result(date.fromisoformat(match[1]), logs / f"night-{match[1]}.log")
                results.append(result)
                log = result.log.open("w")
                began = time.monotonic()
                console.print(f"\n[bold]Night {result.ds}[/]  log: {_short(result.log)}")
            elif match and results:
                results[-1].state, results[-1].seconds = match[2], time.monotonic() - began
            log.write(line)
            log.flush()
            if results:
                stage = _show(line, results[-1], stage, console, show)
    log.close()
    return results


def _show(
    line: str, result: Result, stage: _Stage | None, console: Console, show: Any
) -> _Stage | None:
    """Takes note of one line; returns the stage that runs after it."""
    around = re.match(AROUND, line)
    said = around[1] if around else line
    if match := STARTED.match(said):
        show(match[1])
        result.errors.pop(match[1], None)
        return _Stage(match[1], time.monotonic())
    if stage is None:
        if match := FAILED.match(said):  # before its program was started
            result.errors[match[1]] = match[2]
        return None
    if match := CLOSED.match(said):
        table, ds, state, rows = match.groups()
        result.num_published += state == "published"
        if ds == str(result.ds):
            same = " (unchanged)" if state != "published" else ""
            stage.tables.append(f"{rows:>9} rows {table}{same}")
        else:
            stage.num_other_days += table == stage.name
    elif match := re.match(rf"{stage.name} {result.ds}: (.*)", said):
        stage.tables.append(match[1])
    elif match := FAILED.match(said):
        result.errors[stage.name] = match[2]
    elif match := SKIPPED.match(said):
        result.skipped = match[2]
    elif ENDED.search(said):
        _show_end(stage, result, console)
        return None
    return stage


def _show_end(stage: _Stage, result: Result, console: Console) -> None:
    seconds = time.monotonic() - stage.started
    total = result.stage_seconds.get(stage.name, 0.0) + seconds
    result.stage_seconds[stage.name] = total
    is_done = stage.name not in result.errors and not result.skipped
    mark = "[green]✓[/]" if is_done else "[yellow]–[/]" if result.skipped else "[red]✗[/]"
    earlier = f", {stage.num_other_days} earlier days" if stage.num_other_days else ""
    tables = ", ".join(table.strip() if n else table for n, table in enumerate(stage.tables))
    console.print(
        f"  {mark} {stage.name:<16}{seconds:6.1f} s {tables}{earlier}",
        highlight=False,
        soft_wrap=True,
    )


@contextmanager
def _spinner(console: Console) -> Iterator[Any]:
    """A line that turns, says what runs and for how long; yields the function that changes it."""
    columns = (SpinnerColumn(), TextColumn("{task.description:<16}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("")

        def show(what: str) -> None:
            progress.reset(task, description=what)

        yield show


def _short(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
