"""Stage operator: runs one stage as a program and says what its end means.

The stage's interpreter is `PENUMBRA_PYTHON`, by default Airflow's own: the orchestrator can live
in another environment than Spark and torch. A wrapper there must `exec`, because a stage dies
with its parent.

| exit code | means | the task |
|---|---|---|
| 0 | published, or nothing to do | succeeds |
| 66, where `may_skip_day` and `events.missing_day = "skip"` | the day has no events | is skipped |
| 64-78 | usage or data; trying again cannot help | fails at once |
| anything else, or a signal | infrastructure | is retried |

Where Airflow runs a task in a process of its own, as every scheduler does, that process dies with
the one that supervises it, and a stage with both; and a stage waits for its run's turn
(`dags/turns.py`). `dag.test` runs one night, in the process that calls it: neither applies.
"""

import os
import re
import shlex
import sys
from collections.abc import Collection
from datetime import UTC, date, datetime, timedelta
from http import HTTPStatus
from pathlib import Path
from typing import Any

from airflow.sdk import BaseOperator
from airflow.sdk.definitions.param import ParamsDict
from airflow.sdk.exceptions import (
    AirflowException,
    AirflowFailException,
    AirflowRescheduleException,
    AirflowRuntimeError,
    AirflowSkipException,
)

from dags import night_date, turns
from dags.night_params import overrides
from dags.process_group import ProcessGroup
from schemas.errors import NEVER_RETRIED, MissingInputError, UsageError, without_passwords
from schemas.process import PARENT_VARIABLE, die_with
from schemas.settings import Settings

PYTHON_VARIABLE = "PENUMBRA_PYTHON"


class StageOperator(BaseOperator):
    """Runs `python -m <module> --ds ... --root ... --settings ...` for the run's day.

    Args:
        module: The stage's module, such as `jobs.items`.
        folder: Where the modules are; the program's working folder.
        root: Folder of all tables.
        settings_file: Settings of the stage.
        settings: The same, loaded: what the run's parameters are compared with.
        may_skip_day: Whether missing input may skip the night, if `events.missing_day` says so.
    """

    ui_color = "#e8e2f4"
    may_be_forced = True
    """Whether the run's `force` is passed on."""

    def __init__(
        self,
        *,
        module: str,
        folder: Path,
        root: Path,
        settings_file: Path,
        settings: Settings,
        may_skip_day: bool = False,
        **arguments: Any,
    ) -> None:
        super().__init__(do_xcom_push=False, **arguments)
        # Airflow copies the DAG's to each task, and would check and store every copy; a task that
        # runs is given the DAG's in any case. Here are those of the task's own.
        self.params: ParamsDict = ParamsDict.filter_params_by_source(self.params, source="task")
        self.module = module
        self.folder = folder
        self.root = root
        self.settings_file = settings_file
        self.settings = settings
        self.may_skip_day = may_skip_day
        self._group: ProcessGroup | None = None

    def execute(self, context: Any) -> None:
        """Runs the stage and streams its output, line by line, to the task's log.

        Raises:
            AirflowFailException: No date, a parameter that is not of the form, or an exit code of
                `NEVER_RETRIED`.
            AirflowRescheduleException: It is another run's turn.
            AirflowSkipException: A day without events that the settings allow to skip.
            AirflowException: Anything else; Airflow retries.
        """
        params = context["params"]
        try:
            ds, changed = self.night(context), overrides(params, self.settings)
        except UsageError as error:
            self.log.error("%s failed: %s", self.task_id, error)
            raise AirflowFailException(f"{type(error).__name__}: {error}") from None
        if _is_supervised():
            die_with(os.getppid())
            self._wait_for_turn(context["ti"])
        for asset in self.outlets:
            context["outlet_events"][asset].extra = {"ds": ds.isoformat()}
        exit_code, last_line = self._run(ds, params, changed, self.arguments(context))
        if exit_code:
            may_skip = self.may_skip_day and params["events.missing_day"] == "skip"
            self._raise(exit_code, last_line, ds, may_skip)

    def night(self, context: Any) -> date:
        """The day that is passed to the stage.

        Raises:
            UsageError: The run has none.
        """
        given, logical_date = context["params"]["ds"], context.get("logical_date")
        return night_date.resolve(given, logical_date, now=datetime.now(UTC))

    def arguments(self, context: Any) -> list[str]:
        """Arguments of the stage's own, for a subclass to give."""
        return []

    def on_kill(self) -> None:
        """Ends the stage and all that it started."""
        if self._group is not None:
            self._group.stop()

    def _wait_for_turn(self, task: Any) -> None:
        def state_of(run: str) -> str:
            try:
                return str(task.get_dagrun_state(task.dag_id, run))
            except AirflowRuntimeError as error:
                if (error.error.detail or {}).get("status_code") == HTTPStatus.NOT_FOUND:
                    return ""
                raise

        def older() -> str | None:
            run = task.get_previous_dagrun(state=turns.ACTIVE)
            return run.run_id if run else None

        other = turns.take(self.root / turns.FOLDER / task.dag_id, task.run_id, state_of, older)
        if other is not None:
            delay = timedelta(seconds=self.settings.schedule.turn_seconds)
            self.log.info("%s waits for its turn, which is that of %s", self.task_id, other)
            raise AirflowRescheduleException(datetime.now(UTC) + delay)

    def _run(
        self, ds: date, params: Any, changed: dict[str, str], own: list[str]
    ) -> tuple[int, str]:
        command = [os.environ.get(PYTHON_VARIABLE, sys.executable), "-m", self.module]
        command += ["--ds", ds.isoformat(), "--root", str(self.root)]
        command += ["--settings", str(self.settings_file)]
        command += ["--force"] if self.may_be_forced and params.get("force") else []
        command += own
        environment = os.environ | changed | {PARENT_VARIABLE: str(os.getpid())}
        self.log.info("%s started: %s", self.task_id, _as_typed(changed, command))
        output = _Output(self.module)
        self._group = ProcessGroup(command, self.folder, environment)
        try:
            exit_code = self._group.run(lambda line: self.log.info("%s", output.keep(line)))
        finally:
            self._group = None
        return exit_code, output.error or output.last

    def _raise(self, exit_code: int, last_line: str, ds: date, may_skip: bool) -> None:
        if may_skip and exit_code == MissingInputError.exit_code:
            self.log.warning("%s skipped: %s", self.task_id, last_line)
            raise AirflowSkipException(f"{ds} has no events: {last_line}")
        self.log.error("%s failed: exit code %d, %s", self.task_id, exit_code, last_line)
        message = f"{self.module} of {ds} ended with {exit_code}: {last_line}"
        if exit_code in NEVER_RETRIED:
            raise AirflowFailException(message)
        raise AirflowException(message)


def _is_supervised() -> bool:
    """Whether a supervisor has forked this process for its task, which `dag.test` does not."""
    from airflow.sdk.execution_time import task_runner
    from airflow.sdk.execution_time.comms import CommsDecoder

    return isinstance(getattr(task_runner, "SUPERVISOR_COMMS", None), CommsDecoder)


class _Output:
    """What a stage said last, and the line that explains its error: a JVM may speak after it."""

    def __init__(self, module: str) -> None:
        self.explained = re.compile(rf"{re.escape(module)}: (\w+Error: .*)")
        self.last, self.error = "", ""

    def keep(self, line: str) -> str:
        line = without_passwords(line)
        self.last = line or self.last
        if match := self.explained.match(line):
            self.error = match[1]
        return line


def _as_typed(changed: dict[str, str], command: Collection[str]) -> str:
    """The command line as one would type it to run the stage by hand."""
    variables = [f"{name}={shlex.quote(value)}" for name, value in changed.items()]
    return " ".join([*variables, shlex.join(command)])
