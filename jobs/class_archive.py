"""Class archive: the classes Spark loads at its start, laid out once for every later start.

    python -m jobs.class_archive

A Spark session loads some fifteen thousand classes, which costs a short stage half of its time.
Java can keep them in an archive that later processes map into memory (class data sharing, JEP
350). This program runs what stages do to a few rows, and archives what was loaded. Without an
archive, or with one that does not fit, Java starts as usual; results are the same.

Among that are the loops of graph and soft targets, which numba compiles and keeps beside the code:
the first night, and a cluster that is sent the code, finds them compiled.
"""

import re
import sys
import tempfile
import time
from contextlib import redirect_stdout
from datetime import UTC, date, datetime
from io import StringIO
from pathlib import Path

import pyarrow as pa
import pyspark
from pyspark.sql import DataFrame, SparkSession, Window
from pyspark.sql import functions as F

from jobs.java import find_java_home
from schemas.collector import at_work
from schemas.command import Night
from schemas.errors import MissingProgramError, PenumbraError
from schemas.items import ITEMS
from schemas.publishing import draft, new_token, publish
from schemas.sequences import SEQUENCES
from schemas.settings import Settings, SparkSettings

FOLDER = Path(sys.prefix) / "share" / "penumbra"
"""In the environment whose pyspark the archive is for."""
SECONDS_TO_ARCHIVE = 300
QUICK = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"
"""Of what takes a minute once, compiling is a third; what is archived is the same."""
TOY_DS, TOY_ITEMS = date(2017, 1, 1), 20


def java_options() -> str:
    """What Java is started with: the archive if there is one, and no word about how it went."""
    path = archive_path()
    return f"-XX:SharedArchiveFile={path} -Xlog:disable" if path.is_file() else ""


def archive_path() -> Path:
    """Where the archive for this Java and this pyspark belongs, whether or not it is there."""
    home = re.sub(r"\W+", "-", str(find_java_home().resolve())).strip("-")
    return FOLDER / f"{home}-pyspark-{pyspark.__version__}.jsa"


def make() -> Path:
    """Runs Spark on a few rows and archives the classes that were loaded.

    Raises:
        MissingProgramError: There is no Java, or it wrote no archive.
    """
    from jobs.spark import session

    path = archive_path()
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".unfinished")
    path.unlink(missing_ok=True)
    options = f"-XX:ArchiveClassesAtExit={unfinished} -Xlog:disable {QUICK}"
    # One core: of two, each would compile every loop.
    settings = SparkSettings(master="local[1]", conf={"spark.driver.extraJavaOptions": options})
    spark = session("class_archive", settings)
    java = spark.sparkContext._gateway.proc
    with tempfile.TemporaryDirectory() as folder:
        exercise(spark, Path(folder))
        run_loops(Path(folder))
    spark.stop()
    java.stdin.close()  # Java ends by itself when nobody is there to command it, and archives.
    java.wait(SECONDS_TO_ARCHIVE)
    if not unfinished.is_file():
        raise MissingProgramError(
            f"no {unfinished} after Java ended with {java.returncode}",
            "an archive of classes",
            "nothing needs it: stages start slower without; see free space and rights there",
        )
    unfinished.rename(path)
    return path


def exercise(spark: SparkSession, folder: Path) -> None:
    """What the stages do, on a few rows: read, cast, split, join, rank, collect, sort and write."""
    rows = spark.range(100).select(
        F.col("id").cast("string").alias("user_id"),
        (F.col("id") % 7).cast("string").alias("item_id"),
        F.timestamp_seconds("id").alias("event_time"),
    )
    write(rows, folder / "rows")
    read = spark.read.schema(rows.schema).parquet(str(folder / "rows"))
    write(spark.read.option("header", True).csv(write_csv(rows, folder)), folder / "csv")
    order = Window.partitionBy("user_id").orderBy(F.col("event_time").desc())
    ranked = read.withColumn("recency", F.row_number().over(order)).where("recency <= 3")
    items = read.groupBy("item_id").agg(F.count("*").alias("support"), F.min("event_time"))
    joined = ranked.join(items, "item_id").groupBy("user_id")
    lists = joined.agg(F.sort_array(F.collect_list(F.struct("recency", "item_id"))).alias("items"))
    write(lists.select("user_id", F.col("items.item_id")), folder / "lists")
    items.toArrow()
    spark.sparkContext.parallelize(range(4), 2).map(str).collect()


def write(rows: DataFrame, path: Path) -> None:
    """Writes rows in order, as stages do."""
    rows.repartition(1).sortWithinPartitions(rows.columns[0]).write.parquet(str(path))


def write_csv(rows: DataFrame, folder: Path) -> str:
    """Writes rows as CSV; returns where."""
    path = str(folder / "rows.csv")
    rows.withColumn("event_time", F.date_format("event_time", "y-MM-dd HH:mm:ss")).write.csv(path)
    return path


def run_loops(root: Path) -> None:
    """Runs the stages whose loops are compiled on a toy night, without their lines."""
    from jobs import item_graph, soft_targets

    publish_toy(root)
    for stage in (item_graph, soft_targets):
        night = Night(root, TOY_DS, Settings(), [], "", new_token(), time.monotonic())
        with redirect_stdout(StringIO()):
            stage.main(night)


def publish_toy(root: Path) -> None:
    """Publishes items and sequences of 20 users, each with 9 of 20 items."""
    then = datetime(2017, 1, 1, tzinfo=UTC)
    seen = {"support": 9, "first_seen": then, "last_seen": then}
    split = {"num_train": 7, "num_validation": 1, "num_holdout": 1, "event_times": [then] * 9}
    indices = range(1, TOY_ITEMS + 1)
    items = [seen | {"item_index": n, "item_id": str(n)} for n in indices]
    sequences = [
        split | {"user_id": f"{n:02}", "item_indices": [n * k % TOY_ITEMS + 1 for k in range(9)]}
        for n in indices
    ]
    for contract, rows in ((ITEMS, items), (SEQUENCES, sequences)):
        run = draft(root, contract, TOY_DS, new_token())
        run.write(pa.Table.from_pylist(rows, schema=contract.schema))
        publish(run, TOY_DS)


def main() -> int:
    """Makes the archive and prints where it is."""
    try:
        print(make())
    except (PenumbraError, OSError) as error:
        print(f"jobs.class_archive: {error}", file=sys.stderr)
        return error.exit_code if isinstance(error, PenumbraError) else 1
    return 0


if __name__ == "__main__":
    with at_work():
        sys.exit(main())
