"""Fixtures shared by all tests: a small night, literal partitions and one Spark session."""

from collections.abc import Callable, Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from schemas.command import Night
from schemas.contract import Contract
from schemas.partitions import Input, Partition
from schemas.publishing import draft, new_token, publish
from schemas.settings import Settings

DS = date(2017, 10, 31)

PublishRows = Callable[..., Partition]
MakeNight = Callable[..., Night]


@pytest.fixture
def publish_rows(tmp_path: Path) -> PublishRows:
    """Publishes literal rows (dicts) of a table under `tmp_path`, by default for `DS`."""

    def publish_rows(
        contract: Contract, rows: Sequence[dict[str, Any]], ds: date = DS
    ) -> Partition:
        run = draft(tmp_path, contract, ds, new_token())
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
    light = {"spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"}
    spark = session("tests", SparkSettings(master="local[2]", driver_memory="2g", conf=light))
    yield spark
    spark.stop()
