"""A real Spark master and two workers: the stages give what they give on one local core.

The workers' Python knows every locked package and not this project, whose code they are sent.
"""

import json
import os
import re
import signal
import subprocess
import sys
import sysconfig
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import psutil
import pyspark
import pytest

from jobs.java import find_java_home
from schemas.items import ITEMS
from schemas.sequences import SEQUENCES
from tests.conftest import QUICK_JVM

NIGHT = datetime(2017, 10, 31, tzinfo=UTC)
NUM_ITEMS, NUM_USERS = 150, 300
SECONDS_TO_START, SECONDS_TO_STOP, SECONDS_OF_ALL_STAGES = 120, 30, 400


class Cluster:
    """Standalone Spark on 127.0.0.1, every daemon in a process group of its own."""

    def __init__(self, home):
        self.home = home
        self.daemons = []
        spark_home = Path(pyspark.__file__).parent
        self.spark_class = spark_home / "bin" / "spark-class"
        self.environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {
            "JAVA_HOME": str(find_java_home()),
            "SPARK_HOME": str(spark_home),
            "SPARK_CONF_DIR": str(home),
            "SPARK_LOCAL_DIRS": str(home / "scratch"),
            "SPARK_DAEMON_MEMORY": "512m",
            "SPARK_DAEMON_JAVA_OPTS": QUICK_JVM,
        }

    def start(self):
        """Starts a master, two workers of one core each, and waits until it knows them both."""
        master = self.run("master", "master.Master")
        (self.master,) = self.wait_for(master, r"Starting Spark master at (spark://\S+)", 1)
        size = ("--cores", "1", "--memory", "1g")
        for name in ("worker-1", "worker-2"):
            work = ("--work-dir", str(self.home / name), *size, self.master)
            self.run(name, "worker.Worker", *work)
        self.wait_for(master, r"Registering worker (\S+)", 2)

    def run(self, name, daemon, *arguments):
        """Starts a daemon; returns the file it logs to."""
        log = self.home / f"{name}.log"
        where = ("--host", "127.0.0.1", "--port", "0", "--webui-port", "0")
        command = [self.spark_class, f"org.apache.spark.deploy.{daemon}", *where, *arguments]
        with log.open("wb") as output:
            self.daemons.append(
                psutil.Popen(
                    command,
                    cwd=self.home,
                    env=self.environment,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            )
        return log

    def wait_for(self, log, pattern, times):
        """What the pattern found in a log, once it is there so many times."""
        deadline = time.monotonic() + SECONDS_TO_START
        while len(found := re.findall(pattern, log.read_text())) < times:
            ended = [one.pid for one in self.daemons if one.poll() is not None]
            assert not ended, f"daemons {ended} ended; {log} says:\n{log.read_text()}"
            assert time.monotonic() < deadline, f"no {pattern!r} in:\n{log.read_text()}"
            time.sleep(0.02)
        return found

    def tasks(self):
        """Tasks that ran, by application and worker."""
        logs = self.home.glob("worker-*/app-*/*/stderr")
        tasks = {}
        for log in logs:
            worker, application = log.parts[-4:-2]
            tasks.setdefault(application, {})[worker] = log.read_text().count("Running task ")
        return [tasks[application] for application in sorted(tasks)]

    def stop(self):
        """Ends the daemons, their executors and the executors' Python."""
        running = [daemon for daemon in self.daemons if daemon.poll() is None]
        family = [child for daemon in running for child in daemon.children(recursive=True)]
        for daemon in reversed(running):
            daemon.terminate()
        _, left = psutil.wait_procs([*running, *family], SECONDS_TO_STOP)
        for process in left:
            process.kill()
        for daemon in self.daemons:
            # An executor whose worker had died is no one's child, but still in the group.
            with suppress(ProcessLookupError):
                os.killpg(daemon.pid, signal.SIGKILL)
            daemon.wait()


@pytest.fixture
def foreign_python(tmp_path):
    """A Python with this one's packages, but not what is installed as a link to its source."""
    python = tmp_path / "python"
    packages = sysconfig.get_path("purelib")
    # Without the module site no .pth file is read, and links to sources are .pth files.
    environment = f'PYTHONPATH="$PYTHONPATH:{packages}"'
    python.write_text(f'#!/bin/sh\n{environment} exec {sys.executable} -S "$@"\n')
    python.chmod(0o755)
    return python


@pytest.fixture
def cluster(tmp_path):
    home = tmp_path / "cluster"
    home.mkdir()
    cluster = Cluster(home)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture
def night(publish_rows):
    """A random catalogue, its raw ids not in the order of indices, and random histories."""
    random = np.random.default_rng(3)
    ids = [f"i{n}" for n in random.permutation(NUM_ITEMS)]
    seen = {"support": 1, "first_seen": NIGHT, "last_seen": NIGHT}
    publish_rows(
        ITEMS, [seen | {"item_index": n, "item_id": raw} for n, raw in enumerate(ids, start=1)]
    )
    histories = [
        (random.integers(0, NUM_ITEMS, length) ** 2 // NUM_ITEMS + 1).tolist()
        for length in random.integers(3, 40, NUM_USERS)
    ]
    publish_rows(
        SEQUENCES,
        [
            {
                "user_id": f"u{n:05d}",
                "item_indices": items,
                "event_times": [NIGHT + timedelta(minutes=p) for p in range(len(items))],
                "num_train": len(items) - 2,
                "num_validation": 1,
                "num_holdout": 1,
            }
            for n, items in enumerate(histories)
        ],
    )


STAGES = """
import json, sys
from datetime import date
from pathlib import Path
import numpy as np
from pyspark import SparkContext
from jobs import item_graph, soft_targets
from jobs.spark import run_tasks
from schemas.command import Night
from schemas.partitions import get
from schemas.publishing import new_token
from schemas.settings import Settings

root, ds, chosen, digests = Path(sys.argv[1]), date(2017, 10, 31), json.loads(sys.argv[2]), []
for stage, plan in ((item_graph, "auto"), (soft_targets, "broadcast"), (soft_targets, "blocked")):
    settings = Settings.model_validate(chosen | {"spark": chosen["spark"] | {"plan": plan}})
    stage.main(Night(root, ds, settings, [], "", new_token(), 0.0))
    (table,) = stage.STAGE.writes
    digests.append(get(root, table, ds).manifest.content_digest)

def look(_):
    names = [name for name in sys.modules if name.startswith("jobs.")]
    found = {value for name in names for value in vars(sys.modules[name]).values()
             if hasattr(value, "nopython_signatures")}
    return [sum(len(getattr(one.stats, kind)) for one in found)
            for kind in ("cache_hits", "cache_misses")]

spark = SparkContext.getOrCreate()
hits, misses = np.sum(run_tasks(spark, look, range(spark.defaultParallelism)), axis=0).tolist()
print(json.dumps([digests, hits, misses]))
"""
"""Runs the stages one after the other in one Spark session; prints their digests, and how many
compiled loops the workers that are still there found on disk, and how many they had to compile.
"""


def run(root, spark):
    """Digests of the graph and of the soft targets of both plans; loops found, and compiled."""
    chosen = {
        "item_graph": {"user_damping": 0.7, "time_decay_days": 0.3},
        # Few iterations: every task of the blocked plan pays for a start on the cluster.
        "soft_targets": {"top_k": 20, "alpha": 0.2, "tolerance": 0.01},
        "spark": spark,
    }
    ended = subprocess.run(
        [sys.executable, "-c", STAGES, str(root), json.dumps(chosen)],
        env=os.environ | {"SPARK_LOCAL_DIRS": str(root / "scratch")},
        capture_output=True,
        text=True,
        timeout=SECONDS_OF_ALL_STAGES,
    )
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout.splitlines()[-1])


@pytest.mark.usefixtures("night")
def test_op20_a_cluster_of_two_workers_gives_the_digests_of_one_local_core(
    cluster, foreign_python, tmp_path
):
    alone = [foreign_python, "-c", "import numba, pydantic, pyspark; import jobs"]
    ended = subprocess.run(alone, cwd=cluster.home, env=cluster.environment, capture_output=True)
    assert b"No module named 'jobs'" in ended.stderr
    quick = {"spark.driver.extraJavaOptions": QUICK_JVM}
    both_executors = {
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.driver.host": "127.0.0.1",
        "spark.pyspark.python": str(foreign_python),
        "spark.executor.memory": "1g",
        "spark.executor.extraJavaOptions": QUICK_JVM,
        # Work starts when both cores are there: a faster executor could else do it all.
        "spark.cores.max": "2",
        "spark.scheduler.minRegisteredResourcesRatio": "1.0",
        "spark.scheduler.maxRegisteredResourcesWaitingTime": f"{SECONDS_TO_START}s",
    }
    local = {"master": "local[1]", "driver_memory": "1g", "conf": quick}
    expected, _, _ = run(tmp_path, local)
    found, hits, misses = run(
        tmp_path, local | {"master": cluster.master, "conf": quick | both_executors}
    )
    assert found == expected
    assert expected[1] == expected[2] != expected[0]
    (tasks,) = cluster.tasks()
    assert len(tasks) == 2
    assert min(tasks.values()) > 0
    assert hits > 0 and misses == 0
