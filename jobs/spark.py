"""Spark: the session, types derived from contracts, and reading and writing partitions."""

import gc
import os
import re
import shutil
import sys
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import date
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any

from py4j.protocol import Py4JJavaError
from pyspark import SparkConf, SparkContext, SparkFiles
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.pandas.types import from_arrow_schema
from pyspark.sql.types import StructType

from jobs.class_archive import java_options
from jobs.java import find_java_home
from jobs.worker_daemon import prestart
from schemas.command import Night
from schemas.contract import Contract
from schemas.errors import PenumbraError
from schemas.partitions import Input, Partition
from schemas.publishing import Draft
from schemas.scratch import scratch_folder
from schemas.settings import SparkSettings

LITERAL_PATHS = {"__globPaths__": "false"}
"""Reader options: a bracket or an asterisk in a path is that character and no pattern."""
ROW_GROUP_BYTES = 16 * 2**20
"""Of Parquet that Spark writes: tasks that read it themselves take a row group each."""
JAVA_OPTIONS = "spark.driver.extraJavaOptions"
LIGHT = "-XX:TieredStopAtLevel=1"
"""Java compiles everything, but little: on few cores the rest delays what only hands out tasks."""
EXECUTORS_PYTHON = "spark.pyspark.python"
ALWAYS = {
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.ansi.enabled": "true",
    "spark.sql.caseSensitive": "true",
    "spark.sql.legacy.parquet.nanosAsLong": "true",
    "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",
    "spark.sql.parquet.compression.codec": "zstd",
    "spark.sql.sources.parallelPartitionDiscovery.threshold": "100000",
    "spark.sql.execution.arrow.pyspark.enabled": "true",
    "spark.hadoop.mapreduce.fileoutputcommitter.marksuccessfuljobs": "false",
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
}
"""Of any master; `spark.conf` of the settings may say otherwise."""
LOCAL = {
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.driver.host": "127.0.0.1",
    "spark.python.daemon.module": "jobs.worker_daemon",
}
"""Of a local master, whose workers have this code; executors get it after their daemon's start."""
CODE = "penumbra"
"""Folder in an executor's working folder where Spark unpacks the code that it is sent."""
EXECUTORS_PATH = "spark.executorEnv.PYTHONPATH"
SOCKETS = "spark.python.unix.domain.socket."
LONGEST_SOCKET_FOLDER = 60
"""Characters: a socket's path, 42 more, must keep below 108 of them (104 where it is not Linux)."""
PROJECT = Path(__file__).parent.parent
SHIPPED = ("jobs", "schemas")
"""Packages that tasks import on executors."""
SOURCE, COMPILED = "*.py", "*.nb[ci]"
"""Files of these that are sent. Where an executor has another processor, it compiles by itself."""
EARLIEST_IN_ZIP = (1980, 1, 1, 0, 0, 0)
GREETINGS = re.compile(
    rb"WARNING: Using incubator|Using Spark's default|Setting default log|To adj"
)
WARNINGS = re.compile(rb"\S+ \S+ WARN ")


def prestart_workers(settings: SparkSettings) -> None:
    """Prepares Python workers for a local Spark that is started next; a stage does this first."""
    if _is_local(settings) and SparkContext._active_spark_context is None:
        prestart()


def session(name: str, settings: SparkSettings) -> SparkSession:
    """A Spark session as configured under `[spark]`, in UTC.

    With a local master it listens on loopback only. Executors of any other get this code from
    here; what it imports must be installed for their Python, by default at this one's path.

    Raises:
        MissingProgramError: There is no Java 17 or 21.
    """
    _start(name, settings)
    return SparkSession.builder.config(map=_conf(name, settings)).getOrCreate()


def context(name: str, settings: SparkSettings) -> SparkContext:
    """What `session` starts, without SQL: a second and a half less, and enough for `run_tasks`.

    Raises:
        MissingProgramError: There is no Java 17 or 21.
    """
    return _start(name, settings, LIGHT)


def _start(name: str, settings: SparkSettings, options: str = "") -> SparkContext:
    os.environ["JAVA_HOME"] = str(find_java_home())
    os.environ["PYSPARK_PYTHON"] = settings.conf.get(EXECUTORS_PYTHON, sys.executable)
    with _without_greetings():
        spark = SparkContext.getOrCreate(SparkConf().setAll(_conf(name, settings, options).items()))
    spark.setLogLevel("ERROR")
    if not _is_local(settings):
        archive = _zip_code(Path(SparkFiles.getRootDirectory()) / "code" / f"{CODE}.zip")
        spark.addArchive(f"{archive.as_uri()}#{CODE}")
    return spark


def _is_local(settings: SparkSettings) -> bool:
    return settings.master.startswith("local")


def _conf(name: str, settings: SparkSettings, options: str = "") -> dict[str, str]:
    own = {
        "spark.app.name": f"penumbra {name}",
        "spark.master": settings.master,
        "spark.driver.memory": settings.driver_memory,
        "spark.sql.shuffle.partitions": str(settings.shuffle_partitions),
        "spark.hadoop.parquet.block.size": str(ROW_GROUP_BYTES),
    }
    options = f"{options} {settings.conf.get(JAVA_OPTIONS, '')} {java_options()}".strip()
    conf = ALWAYS | own | {**settings.conf, JAVA_OPTIONS: options}
    if _is_local(settings):
        return LOCAL | _sockets() | conf
    path = settings.conf.get(EXECUTORS_PATH)
    return conf | {EXECUTORS_PATH: f"{CODE}:{path}" if path else CODE}


def _sockets() -> dict[str, str]:
    """Lets a local Spark and its Python meet at files; by TCP a task takes 80 ms instead of 40."""
    folder = scratch_folder()  # Spark leaves a file behind
    if len(folder) > LONGEST_SOCKET_FOLDER:
        return {}
    return {f"{SOCKETS}enabled": "true", f"{SOCKETS}dir": folder}


def _zip_code(path: Path) -> Path:
    """The installed code of what executors import, as an archive with the same bytes each time.

    Loops that were compiled here go along, so that not every executor of every stage compiles them
    anew. It lies in a folder of the session, which Spark removes at its end.
    """
    path.parent.mkdir(exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        folders = [PROJECT / name for name in SHIPPED]
        files = {f for folder in folders for kind in (SOURCE, COMPILED) for f in folder.rglob(kind)}
        for file in sorted(files):
            entry = zipfile.ZipInfo(str(file.relative_to(PROJECT)), EARLIEST_IN_ZIP)
            archive.writestr(entry, file.read_bytes(), zipfile.ZIP_DEFLATED)
    return path


@contextmanager
def _without_greetings() -> Iterator[None]:
    """Gives a JVM that starts in this block a stderr from which Spark's greetings are filtered.

    No log level reaches what the JVM prints before logging is set up, and it would bury the one
    line that a failing stage owes its operator. Everything else passes.
    """
    read_end, write_end = os.pipe()
    stderr = os.dup(2)
    os.dup2(write_end, 2)
    os.close(write_end)
    Thread(target=_pass_on, args=(read_end, stderr), daemon=True).start()
    try:
        yield
    finally:
        os.dup2(stderr, 2)


def _pass_on(source: int, target: int) -> None:
    with os.fdopen(source, "rb") as lines, os.fdopen(target, "wb", buffering=0) as stderr:
        for line in lines:
            if not (GREETINGS.match(line) or WARNINGS.match(line)):
                stderr.write(line)


def struct_type(contract: Contract) -> StructType:
    """The Spark schema of a contract, derived from its Arrow schema."""
    return from_arrow_schema(contract.schema)


def read(spark: SparkSession, partitions: Sequence[Partition]) -> DataFrame:
    """The rows of published partitions of one table, as one DataFrame."""
    files = [str(file) for partition in partitions for file in partition.files]
    schema = struct_type(partitions[0].contract)
    return spark.read.options(**LITERAL_PATHS).schema(schema).parquet(*files)


def publish(
    night: Night,
    contract: Contract,
    rows: DataFrame,
    *,
    ds: date | None = None,
    inputs: Sequence[Input] | None = None,
    notes: dict[str, object] | None = None,
) -> Partition:
    """Writes rows in key order as a new run of `ds` and makes it current."""
    run = night.draft(contract, ds)
    run.notes |= notes or {}
    num_files = night.settings.spark.files_per_table
    if num_files == 1:
        spread = rows.repartition(1)
    else:
        spread = rows.repartitionByRange(num_files, *contract.order)
    ordered = spread.select(*contract.columns).sortWithinPartitions(*contract.order)
    staging = run.path / "_staging"
    ordered.write.mode("overwrite").parquet(str(staging))
    adopt(run, staging)
    return night.publish(run, ds, inputs)


def run_tasks(spark: SparkContext, work: Callable[[Any], Any], tasks: Sequence[Any]) -> list[Any]:
    """Runs `work` on each of the tasks on the executors; returns what it returned, in order.

    Raises:
        PenumbraError: A task's own; Spark would try the task again, and fail with its traceback.
    """
    tasks_on_executors = spark.parallelize(tasks, len(tasks))
    results = tasks_on_executors.map(partial(_run_task, work)).collect()
    for result in results:
        if isinstance(result, PenumbraError):
            raise result
    return results


def shuffled_bytes(spark: SparkContext) -> int:
    """What tasks have written for others to read so far, compressed, as Spark itself counts it."""
    java = spark._jsc.sc()
    with suppress(Py4JJavaError):  # it hears of the ends of tasks a little later, as a rule
        java.listenerBus().waitUntilEmpty()
    executors = java.statusStore().executorList(False)
    return sum(executors.apply(n).totalShuffleWrite() for n in range(executors.size()))


def _run_task(work: Callable[[Any], Any], task: Any) -> Any:
    """Runs a task in a worker, whose modules the collector need not look through after each.

    An error that explains itself is returned: it is the driver's to raise.
    """
    if not gc.get_freeze_count():
        gc.freeze()
    try:
        return work(task)
    except PenumbraError as error:
        return error


def adopt(run: Draft, folder: Path) -> None:
    """Moves the part files that Spark wrote to a folder into a run, numbered in key order."""
    for number, file in enumerate(sorted(folder.glob("part-*.parquet"))):
        file.rename(run.path / f"part-{number:05d}.parquet")
    shutil.rmtree(folder)
