import io
from datetime import date

import pytest
from rich.console import Console

from demo.nights import _follow

LOG = """\
2026-11-23T14:30:36.938163Z [info     ] DAG bundles loaded: dags-folder [airflow.x] loc=m.py:304
night 2017-10-31: started
2026-11-23T14:30:32.467837Z [info     ] interactions started: /bin/python -m jobs.interactions \
--ds 2017-10-31 --root /var [airflow.task.operators.dags.stage_operator.StageOperator] loc=s.py:99
{stage_says}
2026-11-23T14:30:32.648664Z [info     ] [DAG TEST] end task task_id=interactions map_index=-1 \
[airflow.sdk.definitions.dag] loc=dag.py:1563
night 2017-10-31: {state}
"""
AROUND = (
    "2026-11-23T14:30:32.503527Z [{level:<9}] {said:<30} "
    "[airflow.task.operators.dags.stage_operator.StageOperator] loc=stage_operator.py:111"
)
PUBLISHED = "{table} {ds}: published 1,234 rows in 8.1 s, digest 3f2a3f2a3f2a"


@pytest.fixture
def follow(tmp_path):
    """Follows a night whose one stage says some lines; gives its result and the screen."""

    def follow(*lines: str, state: str = "success", level: str = "info"):
        said = "\n".join(AROUND.format(said=line, level=level) for line in lines)
        text = LOG.format(stage_says=said, state=state)
        screen = io.StringIO()
        console = Console(file=screen, width=200)
        (result,) = _follow(io.StringIO(text), tmp_path, console)
        return result, screen.getvalue()

    return follow


def test_a_finished_stage_is_shown_with_its_tables_and_rows(follow):
    lines = (PUBLISHED.format(table=t, ds="2017-10-31") for t in ("quarantine", "interactions"))
    result, screen = follow(*lines)
    assert "✓ interactions" in screen
    assert "1,234 rows quarantine, 1,234 rows interactions" in screen
    assert (result.ds, result.state) == (date(2017, 10, 31), "success")
    assert list(result.stage_seconds) == ["interactions"]


def test_what_failed_before_its_program_started_is_told(tmp_path):
    failed = AROUND.format(said="interactions failed: found ds 2026-11-26", level="error")
    text = f"night 2026-11-26: started\n{failed}\nnight 2026-11-26: failed\n"
    (result,) = _follow(io.StringIO(text), tmp_path, Console(file=io.StringIO()))
    assert result.errors == {"interactions": "found ds 2026-11-26"}


def test_days_that_were_caught_up_on_are_counted_not_listed(follow):
    days = ("2017-10-29", "2017-10-30", "2017-10-31")
    _, screen = follow(*(PUBLISHED.format(table="interactions", ds=ds) for ds in days))
    assert screen.count("1,234 rows") == 1
    assert "2 earlier days" in screen


def test_an_unchanged_table_is_shown_as_such(follow):
    line = PUBLISHED.format(table="interactions", ds="2017-10-31")
    _, screen = follow(line.replace("published", "unchanged since"))
    assert "interactions (unchanged)" in screen


def test_what_else_a_stage_says_of_its_night_is_shown(follow):
    _, screen = follow("interactions 2017-10-31: unchanged, hold of version 2 stands")
    assert "unchanged, hold of version 2 stands" in screen


def test_a_failure_keeps_the_stages_own_words(follow):
    words = "ContractError: found mud; expected gold; fix: the river"
    said = f"interactions failed: exit code 65, {words}"
    result, screen = follow(said, state="failed", level="error")
    assert result.errors == {"interactions": words}
    assert result.state == "failed"
    assert "✗ interactions" in screen


def test_a_skipped_night_keeps_its_reason(follow):
    said = "interactions skipped: found no events of 2017-10-31"
    result, screen = follow(said, level="warning")
    assert result.skipped == "found no events of 2017-10-31"
    assert "– interactions" in screen and "✓" not in screen


def test_everything_said_is_in_the_nights_log_and_what_came_before_in_another(follow, tmp_path):
    follow("hello")
    assert (tmp_path / "night-2017-10-31.log").read_text().startswith("night 2017-10-31: started\n")
    assert "hello" in (tmp_path / "night-2017-10-31.log").read_text()
    assert "DAG bundles loaded" in (tmp_path / "airflow-start.log").read_text()
