"""Two short nights on real purchases through Airflow, and what must be true of them after.

The demo with little history and one epoch: every stage, table and command is the real one.
"""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Mapping
from contextlib import closing
from datetime import date
from pathlib import Path

import pytest

from demo.airflow_home import HOME_FOLDER, environment
from demo.load_events import NIGHTS
from schemas.checkpoints import CHECKPOINTS
from schemas.interactions import INTERACTIONS
from schemas.item_graph import ITEM_GRAPH
from schemas.items import ITEMS
from schemas.partitions import Partition, find, get
from schemas.promotions import PROMOTIONS
from schemas.quarantine import QUARANTINE
from schemas.recommendations import RECOMMENDATIONS
from schemas.reference import CHAIN
from schemas.sequences import SEQUENCES
from schemas.settings import Settings
from schemas.soft_targets import SOFT_TARGETS
from trainer.tracking import configure

PROJECT = Path(__file__).parent.parent
FIRST, SECOND = NIGHTS
TABLES = [contract for contract in CHAIN if contract.table != "events"]
SHORT = """
[events]
history_days = 24
[split]
validation_days = 3
[training]
backbone = "gru4rec"
width = 16
epochs = 1
num_threads = 1
[gate]
item_knn_margin = -0.1
[spark]
driver_memory = "2g"
conf = { "spark.driver.extraJavaOptions" = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC" }
"""

KILL_AT = """
import os, runpy, signal, sys

def hook(name, arguments):
    reads = name == "open" and arguments[1] in ("r", "rb")
    path = str(arguments[1 if name == "os.rename" else 0]) if arguments else ""
    if name == {event!r} and not reads and "/item_graph/" in path and {text!r} in path:
        os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(hook)
runpy.run_module("jobs.item_graph", run_name="__main__", alter_sys=True)
"""


def run_demo(root: Path, settings: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "demo.run", "--root", str(root), "--settings", str(settings)]
    command += arguments
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def settings_file(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("settings") / "short.toml"
    file.write_text(SHORT)
    return file


@pytest.fixture(scope="module")
def two_nights(tmp_path_factory, settings_file) -> tuple[Path, str]:
    """The root after two nights, and what the demo printed."""
    root = tmp_path_factory.mktemp("root")
    done = run_demo(root, settings_file)
    assert done.returncode == 0, done.stdout + done.stderr
    return root, done.stdout


@pytest.fixture
def root(two_nights, tmp_path) -> Path:
    """A copy of the tables, to break."""
    shutil.copytree(two_nights[0] / "tables", tmp_path / "tables")
    return tmp_path


def run_stage(
    root: Path, settings_file: Path, code: list[str], changes: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *code, "--ds", str(SECOND), "--root", str(root)]
    command += ["--settings", str(settings_file)]
    return subprocess.run(
        command, env=os.environ | changes, capture_output=True, text=True, check=False
    )


def test_two_nights_publish_every_table(two_nights):
    root, printed = two_nights
    assert "Done: 2 nights, 22 tables, 22 of them new or changed." in printed
    assert all(find(root, table, ds) for table in TABLES for ds in NIGHTS)


def test_airflow_shows_how_long_each_night_took(two_nights):
    root, _ = two_nights
    database = sqlite3.connect(root / HOME_FOLDER / "airflow.db")
    query = "select (julianday(end_date) - julianday(start_date)) * 86400 from dag_run"
    seconds = [row[0] for row in database.execute(query)]
    database.close()
    assert len(seconds) == len(NIGHTS) and all(5 < s < 1000 for s in seconds), seconds


def test_each_night_leaves_a_page_under_the_root_and_in_its_mlflow_run(two_nights):
    root, printed = two_nights
    for ds in NIGHTS:
        page = report(root, ds)
        assert page.read_text().count("<figure>") == 7
        assert f"Report of {ds}: {page}" in printed
        run_id = get(root, CHECKPOINTS, ds).manifest.notes["mlflow_run_id"]
        run = configure(root, Settings()).get_run(run_id)
        assert Path(run.info.artifact_uri, "report.html").read_bytes() == page.read_bytes()
        assert run.data.tags["penumbra.report"] == str(page)


def test_the_facts_that_the_containers_smoke_test_compares_are_those_of_the_nights(two_nights):
    root, _ = two_nights
    command = [sys.executable, PROJECT / "docker" / "facts.py", root, *map(str, NIGHTS)]
    environment = os.environ | {"PYTHONPATH": str(PROJECT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    facts = json.loads(done.stdout)
    for ds in NIGHTS:
        night = facts[str(ds)]
        manifests = {t.table: get(root, t, ds).manifest for t in TABLES}
        assert night["digests"] == {name: m.content_digest for name, m in manifests.items()}
        assert night["rows"] == {name: m.rows for name, m in manifests.items()}
        assert len(night["metrics"]) == night["rows"]["scorecards"]
        (decision,) = get(root, PROMOTIONS, ds).read(["verdict"]).to_pylist()
        assert night["verdict"] == decision["verdict"]


def test_op13_events_are_interactions_quarantine_and_duplicates(two_nights):
    root, _ = two_nights
    for ds in NIGHTS:
        notes = get(root, INTERACTIONS, ds).manifest.notes
        valid, rejected = (get(root, t, ds).manifest.rows for t in (INTERACTIONS, QUARANTINE))
        assert notes["events"] == valid + rejected + notes["duplicates"]
        assert rejected == 4 and notes["duplicates"] >= 1


def test_mlflow_and_the_manifest_say_alike_how_far_soft_targets_can_be_trusted(two_nights):
    root, _ = two_nights
    told = get(root, SOFT_TARGETS, SECOND).manifest.notes
    run_id = get(root, CHECKPOINTS, SECOND).manifest.notes["mlflow_run_id"]
    logged = configure(root, Settings()).get_run(run_id).data.metrics
    for kind in ("item", "user"):
        assert 0 < told[kind]["validation"]["hit_rate"] < 1
        for name in ("mean_seed_mass", "mean_entropy", "coverage"):
            assert logged[f"soft_targets/{kind}/{name}"] == told[kind][name] > 0
        hit_rate = logged[f"soft_targets/{kind}/validation/hit_rate"]
        assert hit_rate == told[kind]["validation"]["hit_rate"]


def test_the_second_night_keeps_the_first_nights_item_indices(two_nights):
    root, _ = two_nights
    first, second = (get(root, ITEMS, ds).read(["item_index", "item_id"]) for ds in NIGHTS)
    assert 0 < first.num_rows <= second.num_rows
    assert second.slice(0, first.num_rows).equals(first)


def test_op03_whoever_serves_has_a_passing_decision_in_the_ledger(two_nights):
    root, _ = two_nights
    promoted = [
        row["candidate_version"]
        for ds in NIGHTS
        for row in get(root, PROMOTIONS, ds).read().to_pylist()
        if row["outcome"] == "promote"
        and {r["result"] for r in json.loads(row["rules"])} <= {"passed", "not judged"}
    ]
    serving = set(get(root, RECOMMENDATIONS, SECOND).read()["model_version"].to_pylist())
    assert serving == {promoted[-1]}


def test_lineage_names_the_partitions_that_were_read(two_nights):
    root, _ = two_nights
    digests = {(t.table, str(ds)): digest(get(root, t, ds)) for t in TABLES for ds in NIGHTS}
    for table in TABLES:
        inputs = get(root, table, SECOND).manifest.inputs
        known = [i for i in inputs if (i["table"], i["ds"]) in digests]
        # Interactions are of raw files, and of their quarantine, which is of raw files alone.
        assert known or table is QUARANTINE
        assert inputs and all(digests[i["table"], i["ds"]] == i["digest"] for i in known)


def test_op02_running_a_night_of_before_again_changes_nothing_and_says_so(
    two_nights, settings_file
):
    root, _ = two_nights
    before = {(t.table, ds): get(root, t, ds).manifest for t in TABLES for ds in NIGHTS}
    pages = [report(root, ds).read_bytes() for ds in NIGHTS]
    again = run_demo(root, settings_file, "--nights", str(FIRST))
    assert pages == [report(root, ds).read_bytes() for ds in NIGHTS]
    assert "Nothing changed: 1 night, 11 tables, same digests." in again.stdout
    assert before == {(t.table, ds): get(root, t, ds).manifest for t in TABLES for ds in NIGHTS}


def test_a_killed_night_holds_nothing_up_and_no_night_runs_beside_a_scheduler(
    two_nights, tmp_path, settings_file
):
    shutil.copytree(two_nights[0] / HOME_FOLDER, tmp_path / HOME_FOLDER)
    with closing(sqlite3.connect(tmp_path / HOME_FOLDER / "airflow.db")) as database, database:
        killed = database.execute("select max(id), max(run_id) from dag_run").fetchone()
        database.execute("update dag_run set state = 'running' where id = ?", killed[:1])
        at_work = "update task_instance set state = 'running' where task_id = 'training'"
        database.execute(at_work + " and run_id = ?", killed[1:])
        database.execute("update dag set is_paused = false")
        database.execute(
            "insert into job (job_type, state, latest_heartbeat, start_date)"
            " values ('SchedulerJob', 'running', datetime('now'), datetime('now'))"
        )

    def run_embedded(*nights):
        command = [sys.executable, "-m", "dags.embedded", *nights]
        airflow = environment(tmp_path, settings_file)
        return subprocess.run(command, cwd=PROJECT, env=airflow, capture_output=True, text=True)

    def states():
        with closing(sqlite3.connect(tmp_path / HOME_FOLDER / "airflow.db")) as database:
            runs = database.execute("select state from dag_run order by id").fetchall()
            tasks = "select task_id from task_instance where state = 'failed' and run_id = ?"
            return [state for (state,) in runs], database.execute(tasks, killed[1:]).fetchall()

    refused = run_embedded(str(FIRST))
    assert refused.returncode == 64, refused.stderr
    assert "UsageError: found a scheduler that runs nightly_retraining" in refused.stderr
    assert states() == (["success", "running"], [])  # it may be at work on it
    with closing(sqlite3.connect(tmp_path / HOME_FOLDER / "airflow.db")) as database, database:
        database.execute("update dag set is_paused = true")
    assert run_embedded().returncode == 0
    assert states() == (["success", "failed"], [("training",)])


@pytest.mark.parametrize(
    ("event", "text"),
    [("os.rename", "/part-00000.parquet"), ("open", "manifest.json"), ("os.rename", "/CURRENT")],
)
def test_op01_a_real_stage_killed_while_publishing_leaves_the_old_version(
    root, settings_file, event, text
):
    before = get(root, ITEM_GRAPH, SECOND)
    code = ["-c", KILL_AT.format(event=event, text=text)]
    changes = {"PENUMBRA_ITEM_GRAPH__TOP_K": "7"}
    assert run_stage(root, settings_file, code, changes).returncode == -signal.SIGKILL
    assert get(root, ITEM_GRAPH, SECOND).manifest == before.manifest
    if text == "/CURRENT":
        assert run_stage(root, settings_file, ["-m", "jobs.item_graph"], changes).returncode == 0
        assert digest(get(root, ITEM_GRAPH, SECOND)) != before.manifest.content_digest


@pytest.mark.parametrize("damage", ["flipped", "deleted"])
def test_op08_a_stage_names_the_damaged_file_it_would_read(root, settings_file, damage):
    part = get(root, SEQUENCES, SECOND).files[0]
    content = bytearray(part.read_bytes())
    part.unlink()
    if damage == "flipped":
        content[len(content) // 2] ^= 1
        part.write_bytes(content)
    done = run_stage(root, settings_file, ["-m", "jobs.item_graph"], {})
    assert done.returncode == 65
    assert done.stderr.count("\n") == 1
    assert f"{part} {'changed' if damage == 'flipped' else 'missing'}" in done.stderr


def report(root: Path, ds: date) -> Path:
    return root / "reports" / f"ds={ds}" / "report.html"


def digest(partition: Partition) -> str:
    return partition.manifest.content_digest
