"""Raw rows: event files of any format as one DataFrame, every value as text, nothing lost.

One row in, one row out: what cannot be split into columns keeps its line in `raw`, what cannot
be parsed is null in `at` or `amount`. No cast in here can fail.
"""

from collections.abc import Callable, Sequence
from functools import reduce

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from jobs.event_files import EventFile
from jobs.spark import LITERAL_PATHS
from schemas.events import EVENTS

ISO_TIME = r"^\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}.*)?$"
"""Spark would also take a bare time of day, as one of today."""
NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"
"""Java would also take 1f, 0x1p3 and NaN."""
END = "end of the line"
"""Stands behind a line of JSON, so that nothing between is lost."""


def raw_rows(spark: SparkSession, files: Sequence[EventFile]) -> DataFrame:
    """The rows of event files of any days and formats.

    Returns:
        `day` and `source_file`, from the path; the events' columns as text, as found, null where
        absent; `at`, the parsed time; `amount`, the parsed weight; `raw`, the line where it
        could not be split, else null.
    """
    alike: dict[tuple[str, tuple], list[str]] = {}
    for file in files:
        if not file.is_empty:
            layout = file.types if file.format == "parquet" else file.columns
            key = (file.format, () if file.format == "json" else layout)
            alike.setdefault(key, []).append(str(file.path))
    frames = [READERS[format](spark, paths, layout) for (format, layout), paths in alike.items()]
    return reduce(DataFrame.unionByName, frames)


def _read_csv(spark: SparkSession, paths: list[str], columns: tuple[str, ...]) -> DataFrame:
    positions = [f"column_{n}" for n in range(len(columns))]
    # With pruning, a query of few columns would take a line with too few values for a whole one.
    rows = spark.read.options(**LITERAL_PATHS, columnPruning=False).csv(
        paths,
        schema=", ".join(f"{name} string" for name in (*positions, "malformed")),
        header=True,
        escape='"',
        mode="PERMISSIVE",
        columnNameOfCorruptRecord="malformed",
    )
    values = {
        name: F.when(F.col("malformed").isNull(), F.col(position))
        for name, position in zip(columns, positions, strict=True)
    }
    return _from_text(rows, values, F.col("malformed"))


def _read_json(spark: SparkSession, paths: list[str], _: tuple) -> DataFrame:
    lines = spark.read.options(**LITERAL_PATHS).text(paths)
    lines = lines.where(F.col("value").rlike(r"[^\x00-\x20]"))
    # In a list whose end is known: the parser stops after what it takes for the whole of a text.
    parsed = F.try_parse_json(F.concat(F.lit("["), "value", F.lit(f',"{END}"]')))
    found = {name: F.try_variant_get(parsed, f"$[0].{name}", "variant") for name in EVENTS.columns}
    is_lossy = F.lit(False)
    for name, value in found.items():
        # A number of too many digits, or with an exponent, is a DOUBLE: other ids may be the same.
        lossy = "OBJECT|ARRAY|DOUBLE" if name in ("user_id", "item_id") else "OBJECT|ARRAY"
        is_lossy |= F.coalesce(F.schema_of_variant(value), F.lit("")).rlike(f"^({lossy})")
    kind = F.schema_of_variant(F.try_variant_get(parsed, "$[0]", "variant"))
    is_object = F.coalesce(kind, F.lit("")).startswith("OBJECT")
    is_alone = F.coalesce(F.try_variant_get(parsed, "$[1]", "string") == END, F.lit(False))
    is_split = is_object & is_alone & ~is_lossy
    values = {
        name: F.when(is_split, F.try_variant_get(value, "$", "string"))
        for name, value in found.items()
    }
    return _from_text(lines, values, F.when(~is_split, F.col("value")))


def _read_parquet(
    spark: SparkSession, paths: list[str], types: tuple[tuple[str, str], ...]
) -> DataFrame:
    schema = ", ".join(f"{name} {type}" for name, type in types)
    rows = spark.read.options(**LITERAL_PATHS).schema(schema).parquet(*paths)
    values = {name: F.col(name) for name, _ in types}
    if dict(types)["event_time"] == "bigint":
        values["event_time"] = F.timestamp_micros(F.expr("event_time div 1000"))
    time_type = dict(types)["event_time"]
    found = {name: value.cast("string") for name, value in values.items()}
    is_text = F.lit(True)
    for value in found.values():
        is_text &= F.coalesce(F.is_valid_utf8(value), F.lit(True))
    text = {name: F.when(is_text, value) for name, value in found.items()}
    readable = (F.make_valid_utf8(value).alias(name) for name, value in found.items())
    raw = F.when(~is_text, F.to_json(F.struct(*readable)))
    at = _time(text["event_time"]) if time_type == "string" else values["event_time"]
    weight = values.get("weight", F.lit(None))
    is_text = dict(types).get("weight", "string") == "string"
    amount = _number(weight.cast("string")) if is_text else weight
    return _rows(rows, text, at, amount, raw)


READERS: dict[str, Callable[[SparkSession, list[str], tuple], DataFrame]] = {
    "csv": _read_csv,
    "json": _read_json,
    "parquet": _read_parquet,
}


def _from_text(rows: DataFrame, values: dict[str, Column], raw: Column) -> DataFrame:
    weight = values.get("weight", F.lit(None).cast("string"))
    return _rows(rows, values, _time(values["event_time"]), _number(weight), raw)


def _rows(
    rows: DataFrame, values: dict[str, Column], at: Column, amount: Column, raw: Column
) -> DataFrame:
    day_and_name = F.substring_index(F.col("_metadata.file_path"), "/ds=", -1)
    # A file's path is percent-encoded, and url_decode would take a plus sign for a space.
    name = F.url_decode(F.replace(F.substring(day_and_name, 12, 4096), F.lit("+"), F.lit("%2B")))
    return rows.select(
        F.to_date(F.substring(day_and_name, 1, 10)).alias("day"),
        name.alias("source_file"),
        *(values.get(name, F.lit(None)).cast("string").alias(name) for name in EVENTS.columns),
        at.cast("timestamp").alias("at"),
        amount.cast("double").alias("amount"),
        raw.cast("string").alias("raw"),
    )


def _time(text: Column) -> Column:
    trimmed = F.trim(text)
    return F.when(trimmed.rlike(ISO_TIME), F.try_to_timestamp(trimmed))


def _number(text: Column) -> Column:
    trimmed = F.trim(text)
    return F.when(trimmed.rlike(NUMBER), trimmed.try_cast("double"))
