import subprocess
import sys
from pathlib import Path

import pytest

from dags import embedded
from demo import load_events, run, ui
from demo.airflow_home import environment

PROJECT = Path(__file__).parent.parent.parent


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ("[training]\nepochs = 0", "SettingsError: found training.epochs = 0; expected integer"),
        ("[training", "valid TOML"),
    ],
)
def test_wrong_settings_end_the_demo_before_anything_starts(tmp_path, settings, error):
    (tmp_path / "own.toml").write_text(settings)
    command = [sys.executable, "-m", "demo.run", "--root", tmp_path / "var"]
    command += ["--settings", tmp_path / "own.toml"]
    ended = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    assert ended.returncode == 78
    assert error in ended.stderr
    assert not (tmp_path / "var").exists()


@pytest.mark.parametrize(
    ("main", "arguments", "error"),
    [
        (run.main, ["--nights", "31.10.2017"], "found DS 31.10.2017; expected a date such as"),
        (run.main, ["--night-s"], "unrecognized arguments: --night-s"),
        (load_events.main, ["soon"], "found the night soon; expected a date such as"),
        (embedded.main, ["soon"], "found the night soon; expected a date such as"),
        (ui.main, ["--airflow-port", "high"], "invalid int value: 'high'"),
    ],
)
def test_a_command_line_that_is_wrong_is_one_line(capsys, main, arguments, error):
    assert main(arguments) == 64
    (line,) = capsys.readouterr().err.splitlines()
    assert "UsageError: found" in line and error in line


def test_nights_of_two_processes_do_not_mix(tmp_path):
    home = environment(tmp_path, PROJECT / "pipeline.toml")
    with embedded.alone(Path(home["AIRFLOW_HOME"])) as is_alone:
        assert is_alone
        command = [sys.executable, "-m", "demo.run", "--nights", "2017-10-31", "--root", tmp_path]
        ended = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    assert ended.returncode == 1
    assert "found another process that runs nights on" in ended.stdout
    with embedded.alone(Path(home["AIRFLOW_HOME"])) as is_alone:
        assert is_alone
