"""The session: where it listens, and the code it sends; a real cluster is in test_cluster.py."""

import subprocess
import sys
import sysconfig
from pathlib import Path

import pyspark

from jobs.spark import JAVA_OPTIONS, LIGHT, _conf, _zip_code, run_tasks
from schemas.settings import SparkSettings


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


def test_the_archive_of_the_code_has_the_same_bytes_each_time_and_runs_from_anywhere(tmp_path):
    one, other = (_zip_code(tmp_path / name / "code.zip") for name in ("one", "other"))
    assert one.read_bytes() == other.read_bytes()
    program = "import jobs.propagation, schemas.settings; print(jobs.propagation.__file__)"
    # Without the module site no link to this project's source is followed.
    path = {"PYTHONPATH": f"{one}:{sysconfig.get_path('purelib')}"}
    command = [sys.executable, "-S", "-c", program]
    ended = subprocess.run(command, cwd=tmp_path, env=path, capture_output=True, text=True)
    assert Path(ended.stdout.strip()) == one / "jobs" / "propagation.py", ended.stderr


def test_what_the_settings_tell_java_comes_last_and_wins():
    own = "-XX:TieredStopAtLevel=4"
    settings = SparkSettings(conf={JAVA_OPTIONS: own})
    assert _conf("test", settings, LIGHT)[JAVA_OPTIONS].split()[:2] == [LIGHT, own]
