"""The real DAG through Airflow's own `dag.test`, on toy stages that end as each test wants."""

import os
import signal
import textwrap
import time
from pathlib import Path

import psutil
import pytest

HANG_WITH_CHILD = """
import subprocess, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
(root / "pids.new").write_text(f"{os.getpid()} {child.pid}")
(root / "pids.new").rename(root / "pids")
time.sleep(600)
"""
ONCE = """
if not (root / "once").exists():
    (root / "once").touch()
    {what}
"""


def wait_for(file: Path, seconds: float = 60) -> str:
    deadline = time.monotonic() + seconds
    while not file.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    return file.read_text()


def remaining(pids: list[int], seconds: float = 10) -> list[int]:
    def alive(pid: int) -> bool:
        try:
            return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    deadline = time.monotonic() + seconds
    while any(map(alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return [pid for pid in pids if alive(pid)]


def test_a_night_runs_all_stages_in_the_order_of_the_chain(run_night, worker):
    assert run_night("2017-10-30")["state"] == "success"
    assert [note["stage"] for note in worker.ran()] == [
        "interactions",
        "health",
        "items",
        "sequences",
        "item_graph",
        "soft_targets",
        "training",
        "evaluation",
        "promotion",
        "recommendations",
        "report",
    ]


def test_a_stage_is_told_date_root_settings_parent_and_run(run_night, worker, toy_project):
    run_id = run_night("2017-10-30", only="interactions")["run_id"]
    note = worker.ran()[0]
    expected = ["--ds", "2017-10-30", "--root", str(worker.root)]
    assert note["arguments"] == [*expected, "--settings", str(toy_project / "pipeline.toml")]
    assert note["environment"]["PENUMBRA_PARENT_PID"] == str(worker.process.pid)
    assert note["environment"]["AIRFLOW_CTX_DAG_RUN_ID"] == run_id


def test_op16_a_run_without_a_date_fails_at_once_and_says_how_to_pass_one(run_night, worker):
    result = run_night(None)
    assert result["tasks"]["interactions"] == "failed"
    assert result["tries"]["interactions"] == 1
    assert '--conf \'{"ds": "2017-10-31"}\'' in result["log"]
    assert worker.ran() == []


def test_op16_a_run_without_a_logical_date_takes_the_parameter(run_night, worker):
    assert run_night(None, ds="2017-10-29")["state"] == "success"
    assert {note["arguments"][1] for note in worker.ran()} == {"2017-10-29"}


def test_force_and_changed_settings_of_the_form_reach_the_stages_and_others_do_not(
    run_night, worker
):
    conf = {"training.epochs": 3, "registry.experiment": "by night 🌙", "training.width": 64}
    run_night("2017-10-30", only="interactions", force=True, **conf)
    assert "--force" in worker.ran()[0]["arguments"]
    given = worker.ran()[0]["environment"]
    assert given["PENUMBRA_TRAINING__EPOCHS"] == "3"
    assert given["PENUMBRA_REGISTRY__EXPERIMENT"] == '"by night 🌙"'
    assert "PENUMBRA_TRAINING__WIDTH" not in given


def test_op17_a_parameter_that_is_no_setting_fails_the_night_on_the_first_try(run_night, worker):
    result = run_night(only="interactions", **{"training.epoch": 3})
    assert (result["tasks"]["interactions"], result["tries"]["interactions"]) == ("failed", 1)
    assert (
        "found training.epoch as a parameter of a run; expected ds, force or a setting"
        in result["log"]
    )
    assert "interactions" not in [note["stage"] for note in worker.ran()]


@pytest.mark.parametrize("code", [64, 78])
def test_op17_a_data_error_fails_on_the_first_try_with_the_stages_words(run_night, code):
    words = "trainer.recommendations: ContractError: found mud; expected gold; fix: the river"
    failing = f"print({words!r}, file=sys.stderr); print('JVM: bye'); sys.exit({code})"
    result = run_night(toys={"recommendations": failing}, only="recommendations")
    assert result["tasks"]["recommendations"] == "failed"
    assert result["tries"]["recommendations"] == 1
    message = f"trainer.recommendations of 2017-10-30 ended with {code}: ContractError: found mud"
    assert f"AirflowFailException: {message}" in result["log"]


@pytest.mark.parametrize("what", ["sys.exit(1)", "os.abort()"])
def test_op17_an_infrastructure_error_is_retried(run_night, what):
    result = run_night(toys={"recommendations": ONCE.format(what=what)}, only="recommendations")
    assert "state=up_for_retry" in result["log"]
    assert result["tries"]["recommendations"] == 2
    assert result["state"] == "success"


def test_op15_a_missing_day_fails_the_night_by_default(run_night):
    result = run_night(toys={"interactions": "sys.exit(66)"})
    assert result["tasks"]["interactions"] == "failed"
    assert result["state"] == "failed"
    assert result["tasks"]["report"] == "success"  # of what there is; it hides no failure


def test_op15_a_missing_day_skips_the_night_by_name_where_the_settings_say_so(run_night):
    conf = {"events.missing_day": "skip"}
    result = run_night(toys={"interactions": "print('no events'); sys.exit(66)"}, **conf)
    assert result["tasks"].pop("report") == "success"
    assert set(result["tasks"].values()) == {"skipped"}
    assert "2017-10-30 has no events" in result["log"]


def test_op15_missing_input_of_a_later_stage_never_skips(run_night):
    conf = {"events.missing_day": "skip"}
    result = run_night(toys={"recommendations": "sys.exit(66)"}, only="recommendations", **conf)
    assert result["tasks"]["recommendations"] == "failed"


def test_op18_on_kill_leaves_no_process(run_night, worker):
    hang_once = ONCE.format(what=textwrap.indent(HANG_WITH_CHILD, "    ").lstrip())
    (worker.root / "recommendations.py").write_text(hang_once)
    worker.start("2017-10-30", {}, mark_success="(?!recommendations)[a-z_]+")
    pids = [int(pid) for pid in wait_for(worker.root / "pids").split()]
    os.kill(worker.process.pid, signal.SIGTERM)
    result = worker.result()
    assert remaining(pids) == []
    assert "trainer.recommendations of 2017-10-30 ended with -15" in result["log"]
    assert result["tries"]["recommendations"] == 2
