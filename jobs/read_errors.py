"""Read errors: tells a raw file that cannot be decoded from a disk that cannot be read.

Spark reports both as the same failed job. So where a job fails on reading a file, the files are
decoded a second time, without Spark: the input is wrong where that fails, too; else the job's
own error stays, and with it the orchestrator's next try.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pyarrow.parquet as pq
from pyspark.sql import SparkSession

from jobs.decoding import decoding
from jobs.event_files import EventFile

READ_FAILED = "[FAILED_READ_FILE."
"""What Spark's error classes for a file that a task could not read begin with."""
JOB_FAILURES = (
    "org.apache.spark.executor.Executor",
    "org.apache.spark.scheduler.TaskSetManager",
    "org.apache.spark.sql.execution.datasources.FileFormatWriter",
)
"""Loggers of what fails a job, which the error in Python tells, too."""


@contextmanager
def decodable(files: Sequence[EventFile]) -> Iterator[None]:
    """Blames the file for a job in this block that fails because it cannot be decoded.

    Raises:
        DataError: The first of the files that cannot be decoded.
    """
    _log_job_failures("OFF")
    try:
        yield
    except Exception as error:
        if READ_FAILED in str(error):
            for file in files:
                decode(file)
        raise
    finally:
        _log_job_failures("ERROR")


def decode(file: EventFile) -> None:
    """Reads a file to its end without Spark, and keeps nothing.

    Raises:
        DataError: The file cannot be decoded.
        OSError: It cannot be read at all, such as for want of a permission.
    """
    if file.format != "parquet":
        file.count_rows()
        return
    with decoding(file.path), pq.ParquetFile(file.path) as parquet:
        for _ in parquet.iter_batches(columns=[name for name, _ in file.types]):
            pass


def _log_job_failures(level: str) -> None:
    # With their stack traces, an operator would have to search for the one line of the error.
    log4j = SparkSession.active()._jvm.org.apache.logging.log4j
    for name in JOB_FAILURES:
        log4j.core.config.Configurator.setLevel(name, log4j.Level.valueOf(level))
