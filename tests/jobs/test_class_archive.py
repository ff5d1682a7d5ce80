import subprocess

import pytest

from jobs import class_archive
from jobs.class_archive import archive_path, exercise, java_options, run_loops
from jobs.java import find_java_home
from jobs.spark import JAVA_OPTIONS
from schemas.item_graph import ITEM_GRAPH
from schemas.partitions import get
from schemas.soft_targets import SOFT_TARGETS


@pytest.fixture
def folder(monkeypatch, tmp_path):
    """An environment of its own for archives."""
    monkeypatch.setattr(class_archive, "FOLDER", tmp_path)
    return tmp_path


def test_java_is_told_of_an_archive_only_where_there_is_one(folder):
    assert java_options() == ""
    archive_path().touch()
    assert f"-XX:SharedArchiveFile={archive_path()}" in java_options()


def test_an_archive_belongs_to_one_java_and_one_pyspark(folder, monkeypatch):
    here = archive_path()
    monkeypatch.setattr(class_archive.pyspark, "__version__", "9.9")
    assert archive_path() != here


def test_an_archive_that_does_not_fit_is_passed_over_in_silence(folder):
    archive_path().write_bytes(b"from another Java")
    command = [find_java_home() / "bin" / "java", *java_options().split(), "-version"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.startswith("openjdk version")


def test_what_is_archived_runs_and_the_session_starts_from_the_archive(spark, tmp_path):
    exercise(spark, tmp_path)
    assert spark.read.parquet(str(tmp_path / "lists")).count() == 100
    assert spark.conf.get(JAVA_OPTIONS).endswith(java_options())


@pytest.mark.usefixtures("spark")
def test_the_toy_night_whose_loops_are_compiled_reaches_items_and_users(tmp_path, capsys):
    run_loops(tmp_path)
    ds, num_items = class_archive.TOY_DS, class_archive.TOY_ITEMS
    assert get(tmp_path, ITEM_GRAPH, ds).manifest.rows > num_items
    kinds = get(tmp_path, SOFT_TARGETS, ds).read(["kind"])["kind"].to_pylist()
    assert kinds == ["item"] * num_items + ["user"] * num_items
    assert capsys.readouterr().out == ""
