import subprocess
import sys
from pathlib import Path

import pytest

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
