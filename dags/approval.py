"""Approval: a person answers before a candidate that passed the gate becomes champion.

    decision >> approval >> promotion

`decision` leaves in the night's ledger what awaits an answer, `approval` shows it and waits,
`promotion` takes the answer to the ledger and moves the champion, if it was approved. Whatever
the answer, and where nobody was asked, the night goes on with the champion it has.

A waiting task (state `awaiting_input`) holds no worker, no triggerer and no slot of a pool. The
scheduler answers *Reject* for it when `gate.approval_timeout_hours` are over. XCom carries the
answer alone: which decision, what was said, who said it.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from airflow.providers.standard.operators.hitl import ApprovalOperator, HITLOperator
from airflow.sdk.configuration import conf
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException, TaskAwaitingInput

from dags import night_date
from dags.alerts import AWAITED, Alert, Alerts
from dags.stage_operator import StageOperator
from schemas.errors import MissingInputError, PenumbraError, UsageError
from schemas.promotions import read_ledger

APPROVAL = "approval"
"""Id of the task that asks."""


class Request(Alerts):
    """Tells whom `alerts.channel` names that an answer is waited for, once a night."""

    def notify(self, context: Any) -> None:
        """Tells, and lets the task wait also where that fails: the question stands in Airflow."""
        try:
            super().notify(context)
        except Exception:
            self.log.exception("nobody could be told that an answer is waited for")

    def describe(self, context: Any) -> Alert:
        """The request, with a link to where it is answered."""
        task = context["task"]
        return replace(
            super().describe(context),
            title=f"Penumbra: {task.subject}",
            error=AWAITED,
            reason=f"without an answer by {task.deadline:%Y-%m-%d %H:%M} UTC the champion stays",
            log=task.generate_link_to_ui_from_context(
                context=context,
                base_url=conf.get("api", "base_url", fallback="http://localhost:8080/"),
            ),
            runbook=f"{self.settings.runbook}#{AWAITED.lower()}",
        )


class AskOperator(ApprovalOperator):
    """Shows the night's awaiting decision and waits for a person; skipped where none awaits.

    Args:
        root: Folder of all tables.
    """

    ui_color = "#f4ecd8"

    def __init__(self, *, root: Path, task_id: str = APPROVAL, **arguments: Any) -> None:
        super().__init__(
            task_id=task_id,
            subject="approval",  # written when it runs, as the text is
            defaults=self.REJECT,
            # That of the DAG's other tasks would end the wait: it is `response_timeout` here.
            execution_timeout=None,
            doc_md=__doc__,
            **arguments,
        )
        self.root = root
        self.deadline = datetime.now(UTC)

    @property
    def serialized_params(self) -> dict[str, dict[str, Any]]:
        """None: a run's settings are not fields of the question."""
        return {}

    def execute(self, context: Any) -> None:
        """Asks, and leaves the worker.

        Raises:
            AirflowSkipException: Nothing awaits an answer.
            AirflowFailException: No date, no decision, a damaged ledger, or a second question.
        """
        try:
            ds = night_date.resolve(
                context["params"]["ds"], context.get("logical_date"), datetime.now(UTC)
            )
            decided = self._newest_decision(ds, is_first_try=context["ti"].try_number == 1)
        except PenumbraError as error:
            raise AirflowFailException(f"{type(error).__name__}: {error}") from None
        version = decided["candidate_version"]
        if decided["outcome"] != "awaiting":
            raise AirflowSkipException(f"{decided['outcome']} of version {version} awaits nobody")
        hours = context["params"]["gate.approval_timeout_hours"]
        self.response_timeout = timedelta(hours=hours)
        self.deadline = datetime.now(UTC) + self.response_timeout
        self.subject = f"may version {version} of {ds} become champion?"
        self.body = body(decided)
        try:
            super().execute(context)
        except TaskAwaitingInput as waiting:
            waiting.kwargs = {"decision": decided["decided_at"].isoformat()}
            raise

    def execute_complete(
        self, context: Any, event: dict[str, Any], decision: str = ""
    ) -> dict[str, str]:
        """The answer for the task `promotion`, which a rejection does not skip: it records it."""
        answer = HITLOperator.execute_complete(self, context, event)
        user = answer["responded_by_user"]
        if user is None:
            return {"answer": "timeout", "decision": decision}
        is_approved = answer["chosen_options"] == [self.APPROVE]
        by = user["name"] if user["name"] == user["id"] else f"{user['name']} ({user['id']})"
        return {
            "answer": "approve" if is_approved else "reject",
            "by": by,
            "decision": decision,
        }

    def _newest_decision(self, ds: date, *, is_first_try: bool) -> dict[str, Any]:
        rows = read_ledger(self.root, ds)
        if not rows:
            raise MissingInputError(
                f"no decision about {ds} under {self.root}", "one in promotions", "clear decision"
            )
        num_awaiting = sum(row["outcome"] == "awaiting" for row in rows)
        if rows[-1]["outcome"] == "awaiting" and num_awaiting > 1 and not is_first_try:
            # Airflow keeps a question's text from one try to the next, whatever it is given.
            raise UsageError(
                f"another decision about {ds} than this run may have asked about",
                "one question a run, as Airflow would show the earlier decision's table",
                "trigger the night again, or python -m trainer.promotion "
                f"--ds {ds} --answer approve --by NAME",
            )
        return rows[-1]


class AnsweredOperator(StageOperator):
    """The stage that decides, given the answer to its decision where somebody was asked.

    What was decided and answered is not to be decided again: `force` was for the task before.
    """

    may_be_forced = False

    def __init__(self, **arguments: Any) -> None:
        # It goes on after a decision that asked nobody, and not where the night was skipped.
        super().__init__(trigger_rule="none_failed_min_one_success", **arguments)

    def arguments(self, context: Any) -> list[str]:
        """`--answer`, `--by` and `--decision`; nothing where nobody was asked."""
        answer = context["ti"].xcom_pull(task_ids=APPROVAL) or {}
        return [f"--{name}={value}" for name, value in answer.items()]


def body(decided: Mapping[str, Any]) -> str:
    """A decision as Markdown: versions, reason, and the gate's rules as a table.

    Args:
        decided: A row of the promotions table.
    """
    champion = decided["champion_version"]
    over = f"champion is version {champion}" if champion else "there is no champion yet"
    lines = [
        f"Candidate: version {decided['candidate_version']}; {over}.",
        "",
        f"The gate passed: {_cell(decided['reason'])}",
        "",
        "| rule | result | value | limit | what was found |",
        "|---|---|---:|---:|---|",
    ]
    for rule in json.loads(decided["rules"]):
        value, limit = (_number(rule[name]) for name in ("value", "limit"))
        cells = [rule["rule"], rule["result"], value, limit, rule["about"]]
        lines.append(f"| {' | '.join(map(_cell, cells))} |")
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "missing" if value is None else f"{value:.4g}"


def _cell(text: str) -> str:
    """Text that Markdown shows as it is, in one cell."""
    for character in "\\|*_`<[":
        text = text.replace(character, "\\" + character)
    return text
