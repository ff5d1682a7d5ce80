"""Turns: one run at a time on the tables of a root, whoever started it.

Airflow's `max_active_runs` bounds scheduled and triggered runs. A backfill's runs are counted
apart: by its own `--max-active-runs`, 10 where it is not given, and beside all others. But a night
builds on the catalogue, the weights and the champion that the night before has left. So a stage
goes on only when it is its run's turn:

    <root>/turns/<dag>    the run whose turn it is, until it has ended

Of several runs that wait, the oldest night goes first; Airflow knows the night of those that have a
logical date, so a run that was triggered with `ds` alone takes the turn as soon as it is free.
"""

from collections.abc import Callable
from pathlib import Path

from schemas.publishing import locked

FOLDER = "turns"
ACTIVE = "running"
"""State of a run that may start tasks; one that was cleared is queued first, and asks again."""


def take(
    file: Path, run: str, state_of: Callable[[str], str], older: Callable[[], str | None]
) -> str | None:
    """Takes the turn for a run, unless it is another's.

    Args:
        file: Where the turn is kept.
        run: Who asks.
        state_of: State of a run in Airflow; empty where it knows none of that name.
        older: The run of an earlier night that is active too, if there is one.

    Returns:
        The run to wait for; None where it is the asking run's turn.
    """
    with locked(file.with_suffix(".lock")):
        holder = file.read_text() if file.exists() else ""
        if holder == run:
            return None
        if holder and state_of(holder) == ACTIVE:
            return holder
        if waiting := older():
            return waiting
        file.write_text(run)
        return None
