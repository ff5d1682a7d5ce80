"""What every stage of the chain has in common, whatever it does."""

import sys
from importlib import import_module

import pytest

from schemas.command import run
from schemas.reference import CHAIN


@pytest.mark.parametrize("module", dict.fromkeys(c.stage for c in CHAIN if c.table != "events"))
def test_op17_a_stage_without_inputs_ends_with_66_one_line_and_no_table(
    module, tmp_path, monkeypatch, capsys
):
    stage = import_module(module.removeprefix("python -m "))
    root = tmp_path / "root"
    monkeypatch.setattr(sys, "argv", [stage.STAGE.module, "--ds=2017-10-31", f"--root={root}"])
    with pytest.raises(SystemExit) as ended:
        run(stage.STAGE, stage.main)
    told = capsys.readouterr()
    assert (ended.value.code, told.out) == (66, "")
    assert told.err.startswith(f"{stage.STAGE.module}: MissingInputError: found no ")
    assert "; expected " in told.err and "; fix: " in told.err and told.err.count("\n") == 1
    assert not (root / "tables").exists()
