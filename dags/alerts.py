"""Alerts: who is told that a task has failed for good, once an incident.

An incident is one error of one task about one night. Its first failure is told; while it is open,
further tries and repetitions of the night are silent; the task's success for that night closes it.
A run without a night is an incident of its own, which nothing closes.

A task whose process is killed on its last try tells of nothing; the end of its run does, from the
DAG processor, which needs the root and the connection for that. It knows the last failure of a run:
not what failed before a report that fails too, nor a report that was killed after a good night.

    <root>/alerts/alerts.jsonl                             every alert, a line each
    <root>/alerts/open/<dag>/<night>/<task>/<error>.json   open; delete it to be told again

`alerts.channel` names whom it is told besides: an Airflow notifier, which finds the alert as
`alert` in its context. Its address and its secrets are in an Airflow connection. An alert that
cannot be delivered, three times, opens no incident, so the end of the run and the next failure try
again: better twice than never.
"""

import json
import os
import re
import shutil
import time
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from airflow.sdk import BaseNotifier
from airflow.sdk.exceptions import AirflowTaskTimeout

from dags import night_date
from dags.webhook import WebhookNotifier
from schemas.errors import UsageError, error_classes
from schemas.publishing import locked
from schemas.settings import AlertsSettings

CRASHED, TIMED_OUT, LOST = "StageCrashed", "TaskTimedOut", "TaskLost"
AWAITED = "ApprovalAwaited"
"""Nothing failed: a person is asked (`dags/approval.py`)."""
NAMES = (CRASHED, TIMED_OUT, LOST, AWAITED, *sorted(error.__name__ for error in error_classes()))
"""What an alert can be called; each is a heading of the runbook."""

LOG, OPEN = "alerts.jsonl", "open"
DELIVERY_DELAYS = (1.0, 2.0)
"""Seconds before a delivery that failed is tried again."""
OWN_ALERT_SECONDS = 20.0
"""In which a task's own alert is kept, where its state was set from outside and the run is over."""
NO_NIGHT = "undated"
"""Stands for the night of a run that has none; each such run is an incident of its own."""
UNDATED = "any-night"
"""Stands for the night in incidents of a DAG that is about the present."""

EMAIL = (
    "<p>{{ alert.reason | e }}</p><ul><li>run {{ alert.run | e }}, night {{ alert.night | e }}</li>"
    '<li><a href="{{ alert.log | e }}">log</a></li><li>runbook: {{ alert.runbook | e }}</li></ul>'
)


@dataclass(frozen=True)
class Alert:
    """What somebody who is woken needs: times are ISO 8601, UTC."""

    title: str
    at: str
    dag: str
    task: str
    run: str
    night: str
    error: str
    reason: str
    log: str
    runbook: str


class Alerts(BaseNotifier):
    """Tells of a failed task, unless its incident is open; called as `on_failure_callback`.

    Args:
        root: Folder of all tables.
        settings: The section `alerts`.
        is_dated: Whether the DAG's runs are about a night each, or about the present.
    """

    def __init__(self, root: Path, settings: AlertsSettings, *, is_dated: bool = True) -> None:
        super().__init__()
        self.folder = root / "alerts"
        self.settings = settings
        self.is_dated = is_dated
        channel(settings)  # a wrong setting is the DAG's error, not lost with the first alert

    def notify(self, context: Any) -> None:
        """Opens an incident and tells of it, or says in the task's log that it is open."""
        self._notify(self.describe(context), context)

    def _notify(self, alert: Alert, context: Any) -> None:
        incident = self._open(context) / f"{alert.error}.json"
        line, is_kept = json.dumps(asdict(alert)), False
        with ExitStack() as held:
            try:
                held.enter_context(locked(self.folder / ".lock"))
                if incident.exists():
                    opened = incident.read_text().partition("\n")[0]
                    self.log.info("no alert: the incident is open since %s", opened)
                    with suppress(OSError), incident.open("a") as spoken:
                        spoken.write(_quoted(alert) + "\n")
                    return
                with (self.folder / LOG).open("a") as log:
                    log.write(line + "\n")
                is_kept = True
            except OSError as error:  # the disk may be what failed; better twice than never
                self.log.error("the alert cannot be kept under the root (%s)", error)
            if self._deliver({**context, "alert": alert}) or is_kept:
                _write(incident, line)
        self.log.info("alert: %s; runbook: %s", alert.title, alert.runbook)

    def _deliver(self, context: Any) -> bool:
        """Tells whom the channel names, with some patience: a data error has no next failure.

        Returns:
            Whether there is somebody.
        """
        for seconds in DELIVERY_DELAYS:
            try:
                return self._tell(context)
            except Exception as error:
                self.log.warning("not delivered (%s), again in %g s", error, seconds)
                time.sleep(seconds)
        return self._tell(context)

    def _tell(self, context: Any) -> bool:
        # A new one each time: a notifier renders its templates once and for all. Not as the DAG
        # would: the one that `dag.test` has when its run ends cannot render.
        notifier = channel(self.settings)
        if notifier:
            notifier({**context, "dag": None})
        return notifier is not None

    def notify_of_run(self, context: Any) -> None:
        """Tells of the task that failed a run, if it has not itself; a DAG's `on_failure_callback`.

        Airflow's DAG processor calls it, and `dag.test` with the night's own process.
        """
        if not self.folder.parent.is_dir():
            here = f"found no folder {self.folder.parent} here; expected the root of all tables"
            self.log.error("run failed, alerts unknown: %s; fix: share it with this process", here)
            return
        if "ti" not in context:
            run, why = context.get("run_id"), context.get("reason")
            self.log.error("no alert: Airflow names no task that failed run %s (%s)", run, why)
            return
        alert, last = self.describe(context), time.monotonic() + OWN_ALERT_SECONDS
        while not self._has_spoken(alert, context):
            if time.monotonic() > last:
                self._notify(self._undelivered(alert) or alert, context)
                return
            time.sleep(0.5)

    def _has_spoken(self, alert: Alert, context: Any) -> bool:
        """Whether the try has told of its failure, or found its incident open."""
        incidents = self._open(context).glob("*.json")
        return any(_quoted(alert) in incident.read_text() for incident in incidents)

    def _undelivered(self, alert: Alert) -> Alert | None:
        """What the try has told and nobody has heard."""
        try:
            lines = (self.folder / LOG).read_text().splitlines()
        except OSError:
            return None
        for line in reversed(lines):
            with suppress(ValueError, TypeError):  # a full disk may have cut it off
                if (told := Alert(**json.loads(line))).log == alert.log:
                    return told
        return None

    def close(self, context: Any) -> None:
        """Closes the incidents of a task that has succeeded; called as `on_success_callback`."""
        if (incidents := self._open(context)).is_dir():
            with locked(self.folder / ".lock"):
                shutil.rmtree(incidents)

    def describe(self, context: Any) -> Alert:
        """The alert of a failed task."""
        task = context["ti"]
        error, reason = explain(context.get("exception"))
        night = night_of(context) if self.is_dated else datetime.now(UTC).date().isoformat()
        return Alert(
            title=f"Penumbra: {task.task_id} of {night} failed: {error}",
            at=datetime.now(UTC).isoformat(timespec="seconds"),
            dag=task.dag_id,
            task=task.task_id,
            run=task.run_id,
            night=night,
            error=error,
            reason=reason,
            log=task.log_url,
            runbook=f"{self.settings.runbook}#{error.lower()}",
        )

    def _open(self, context: Any) -> Path:
        night = night_of(context) if self.is_dated else UNDATED
        if night == NO_NIGHT:  # no later run is about the same, and could close it
            night = f"{NO_NIGHT}-{context['ti'].run_id}"
        return self.folder / OPEN / context["ti"].dag_id / night / context["ti"].task_id


def _quoted(alert: Alert) -> str:
    """The address of its try's log, as it stands in the file of an incident."""
    return json.dumps(alert.log)


def _write(incident: Path, line: str) -> None:
    """Opens an incident, or on a full disk does not: an empty file would silence it."""
    incident.parent.mkdir(parents=True, exist_ok=True)
    begun = incident.with_suffix(f".{os.getpid()}")
    try:
        begun.write_text(line + "\n")
        begun.replace(incident)
    finally:
        begun.unlink(missing_ok=True)


def channel(settings: AlertsSettings) -> BaseNotifier | None:
    """The notifier of the settings; None where the file is enough."""
    if settings.channel == "webhook":
        return WebhookNotifier(settings.connection or "penumbra_webhook")
    if settings.channel == "file":
        return None
    from airflow.providers.smtp.notifications.smtp import SmtpNotifier

    return SmtpNotifier(
        to=[address.strip() for address in settings.to.split(",")],
        subject="{{ alert.title }}",
        html_content=EMAIL,
        smtp_conn_id=settings.connection or "smtp_default",
    )


def explain(exception: BaseException | None) -> tuple[str, str]:
    """An alert's name and reason: one of `NAMES`, and the words of what failed."""
    if exception is None:
        return LOST, "its process ended without a word: killed, marked failed, or its host is gone"
    if isinstance(exception, AirflowTaskTimeout):
        return TIMED_OUT, f"execution_timeout: {exception}"
    named = re.search(r"(\w+): found .*", str(exception), re.DOTALL)
    if named and named[1] in NAMES:
        return named[1], named[0]
    return CRASHED, f"{exception}"


def night_of(context: Any) -> str:
    """The night a run is about; `NO_NIGHT` where it has none, which is why it failed."""
    ds = (context.get("params") or {}).get("ds")
    try:
        return str(night_date.resolve(ds, context.get("logical_date"), datetime.now(UTC)))
    except UsageError:
        return NO_NIGHT
