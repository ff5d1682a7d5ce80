"""The session: where it listens, and the code it sends; a real cluster is in test_cluster.py."""

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pyspark
import pytest

from jobs.spark import (
    CODE,
    EXECUTORS_PATH,
    JAVA_OPTIONS,
    LIGHT,
    PROJECT,
    SHIPPED,
    _conf,
    _zip_code,
    run_tasks,
)
from schemas.errors import DataError
from schemas.settings import SparkSettings


def test_op17_a_tasks_own_error_is_the_stages(spark):
    def fail_on_three(number: int) -> int:
        if number == 3:
            raise DataError("a three", "none", "the events")
        return number

    assert run_tasks(spark.sparkContext, fail_on_three, [1, 2]) == [1, 2]
    with pytest.raises(
        DataError, match=r"^found a three; expected none; fix: the events$"
    ) as error:
        run_tasks(spark.sparkContext, fail_on_three, [1, 2, 3])
    assert error.value.found == "a three"


def test_a_local_session_listens_on_loopback_only_and_sends_no_code(spark):
    assert spark.conf.get("spark.driver.host") == "127.0.0.1"
    assert spark.conf.get("spark.driver.bindAddress") == "127.0.0.1"
    assert not spark.sparkContext.listFiles


def test_workers_are_forked_with_the_installed_packages_imported(spark):
    def look(_: int) -> tuple[str, bool]:
        import sys

        import pyspark

        top_k = sys.modules.get("jobs.top_k")
        return str(pyspark.__file__), bool(top_k and top_k._top_k_of_rows.signatures)

    for file, is_compiled in run_tasks(spark.sparkContext, look, range(2)):
        assert file == pyspark.__file__
        assert is_compiled


def test_the_archive_of_the_code_has_the_same_bytes_each_time_and_runs_from_anywhere(
    monkeypatch, tmp_path
):
    # A copy: another process of pytest may compile a loop meanwhile.
    copy = tmp_path / "copy"
    for name in SHIPPED:
        shutil.copytree(PROJECT / name, copy / name)
    compiled = copy / "jobs" / "__pycache__" / "some.loop.py311.1.nbc"
    compiled.touch()
    monkeypatch.setattr("jobs.spark.PROJECT", copy)
    one, other = (_zip_code(tmp_path / name / "code.zip") for name in ("one", "other"))
    assert one.read_bytes() == other.read_bytes()
    code = tmp_path / "code"
    shutil.unpack_archive(one, code)
    assert (code / compiled.relative_to(copy)).exists()
    program = "import jobs.propagation, schemas.settings; print(jobs.propagation.__file__)"
    # Without the module site no link to this project's source is followed.
    path = {"PYTHONPATH": f"{code.name}:{sysconfig.get_path('purelib')}"}
    command = [sys.executable, "-S", "-c", program]
    ended = subprocess.run(command, cwd=tmp_path, env=path, capture_output=True, text=True)
    assert Path(ended.stdout.strip()) == code / "jobs" / "propagation.py", ended.stderr


def test_what_the_settings_put_on_the_executors_path_comes_after_the_code():
    settings = SparkSettings(master="spark://one:7077", conf={EXECUTORS_PATH: "/opt/own"})
    assert _conf("test", settings)[EXECUTORS_PATH] == f"{CODE}:/opt/own"
    assert EXECUTORS_PATH not in _conf("test", SparkSettings())


def test_what_the_settings_tell_java_comes_last_and_wins():
    own = "-XX:TieredStopAtLevel=4"
    settings = SparkSettings(conf={JAVA_OPTIONS: own})
    assert _conf("test", settings, LIGHT)[JAVA_OPTIONS].split()[:2] == [LIGHT, own]
