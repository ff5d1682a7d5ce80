import subprocess
import sys
import time
from datetime import date

import psutil
import pyarrow as pa
import pytest

from schemas.command import Stage, _fingerprint, run
from schemas.contract import Contract, required
from schemas.errors import DataError, StaleWriterError
from schemas.partitions import Input, get
from schemas.settings import Settings

FRUIT = Contract(
    table="fruit",
    version=1,
    key=("name",),
    stage="schemas.fruit",
    about="One fruit.",
    fields=[required("name", pa.string(), "what")],
)


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Runs a stage that writes one row and reads a file; returns its exit code."""
    basket = tmp_path / "basket"
    basket.write_text("apple")

    def inputs(root, ds, settings):
        return [Input("basket", str(ds), "", basket.read_text())]

    def main(night):
        if basket.read_text() == "stone":
            raise DataError("a stone\nin the basket", "fruit", "the basket")
        draft = night.draft(FRUIT)
        draft.write(pa.table({"name": [basket.read_text()]}))
        if basket.read_text() == "worm":
            raise DataError("a worm in the basket", "fruit", "the basket")
        night.publish(draft)

    def program(*arguments, ds="2017-10-31"):
        monkeypatch.setattr(sys, "argv", ["fruit", "--ds", ds, "--root", str(tmp_path), *arguments])
        stage = Stage("schemas.fruit", "Fruit.", (FRUIT,), inputs, ("items",))
        with pytest.raises(SystemExit) as caught:
            run(stage, main)
        return caught.value.code

    program.basket = basket
    return program


def test_a_stage_prints_one_closing_line_and_exits_with_0(program, capsys):
    assert program() == 0
    line = capsys.readouterr().out
    assert line.startswith("fruit 2017-10-31: published 1 rows in ") and line.count("\n") == 1


def test_op02_equal_inputs_settings_and_code_are_not_worked_on_again(program, capsys, tmp_path):
    program()
    before = get(tmp_path, FRUIT, date(2017, 10, 31)).manifest
    assert program() == 0
    assert "unchanged since" in capsys.readouterr().out
    assert get(tmp_path, FRUIT, date(2017, 10, 31)).manifest == before


def test_op02_forced_work_gives_the_same_digest_in_a_new_run(program, capsys, tmp_path):
    program()
    before = get(tmp_path, FRUIT, date(2017, 10, 31)).manifest
    assert program("--force") == 0
    after = get(tmp_path, FRUIT, date(2017, 10, 31)).manifest
    assert after.content_digest == before.content_digest and after.run > before.run


@pytest.mark.parametrize("arguments", [[], ["--force"]])
def test_op08_a_stage_makes_its_own_damaged_output_anew(program, capsys, tmp_path, arguments):
    ds = date(2017, 10, 31)
    program()
    before = get(tmp_path, FRUIT, ds)
    with before.files[0].open("ab") as file:
        file.write(b"x")
    assert program(*arguments) == 0
    assert get(tmp_path, FRUIT, ds).read().to_pylist() == [{"name": "apple"}]
    assert get(tmp_path, FRUIT, ds).manifest.run > before.manifest.run
    if not arguments:
        assert f"made anew: {before.files[0]} changed" in capsys.readouterr().out


def test_op08_a_stage_mends_its_own_damaged_pointer(program, capsys, tmp_path):
    program()
    pointer = get(tmp_path, FRUIT, date(2017, 10, 31)).path.parent / "CURRENT"
    pointer.write_text("")
    assert program() == 0
    assert f"made anew: {pointer} damaged" in capsys.readouterr().out
    assert program() == 0
    assert "unchanged since" in capsys.readouterr().out


def test_a_root_that_is_a_file_is_a_usage_error(program, capsys, tmp_path):
    assert program("--root", str(program.basket)) == 64
    assert f"found {program.basket}, which is a file" in capsys.readouterr().err


@pytest.mark.parametrize(("table", "num"), [("events", 2), ("items", 1)])
def test_names_of_raw_files_count_and_runs_of_tables_do_not(table, num):
    """The rows of quarantine name the file that they are of."""
    stage = Stage("schemas.fruit", "Fruit.", (FRUIT,), lambda *_: (), ("items",))
    inputs = [[Input(table, "2017-10-31", run, "digest")] for run in ("a.csv", "b.csv")]
    assert len({_fingerprint(stage, Settings(), of) for of in inputs}) == num


def test_changed_inputs_are_worked_on(program, capsys):
    program()
    program.basket.write_text("pear")
    program()
    assert capsys.readouterr().out.count("published") == 2


def test_changed_settings_are_worked_on(program, capsys, monkeypatch):
    program()
    monkeypatch.setenv("PENUMBRA_ITEMS__MIN_SUPPORT", "3")
    program()
    assert capsys.readouterr().out.count("published") == 2


def test_settings_of_other_stages_do_not_matter(program, capsys, monkeypatch):
    program()
    monkeypatch.setenv("PENUMBRA_TRAINING__EPOCHS", "3")
    program()
    assert capsys.readouterr().out.count("published") == 1


def test_a_data_error_is_one_line_on_stderr_and_exit_code_65(program, capsys):
    program.basket.write_text("stone")
    assert program() == 65
    assert capsys.readouterr().err == (
        "schemas.fruit: DataError: found a stone in the basket; expected fruit; fix: the basket\n"
    )


@pytest.mark.parametrize("arguments", [["--colour", "red"], ["--ds", "31.10.2017"]])
def test_a_bad_command_line_is_exit_code_64(program, capsys, arguments):
    assert program(*arguments) == 64
    assert capsys.readouterr().err.count("\n") == 1


def test_a_bad_setting_is_exit_code_78(program, capsys, monkeypatch):
    monkeypatch.setenv("PENUMBRA_ITEMS__MIN_SUPPORT", "-1")
    assert program() == 78
    assert "items.min_support = -1; expected integer, ≥ 1" in capsys.readouterr().err


def test_help_tells_what_the_stage_is(program, capsys):
    assert program("--help") == 0
    assert "Fruit." in capsys.readouterr().out


PARENT = """
import subprocess, sys
subprocess.run([sys.executable, "-c", sys.argv[1]])
"""
CHILD = """
import os, time
from schemas.process import die_with
die_with(os.getppid())
print(os.getpid(), flush=True)
time.sleep(600)
"""


def test_op18_a_process_that_dies_with_its_parent_outlives_no_sigkill():
    command = [sys.executable, "-c", PARENT, CHILD]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        child = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
    deadline = time.monotonic() + 10
    while child.is_running() and child.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_work_can_be_repeated_after_the_clock_was_set_back(program, monkeypatch, tmp_path):
    program()
    an_hour_ago = time.time_ns() - 3_600 * 10**9
    monkeypatch.setattr(time, "time_ns", lambda: an_hour_ago)
    program.basket.write_text("pear")
    assert program() == 0
    assert get(tmp_path, FRUIT, date(2017, 10, 31)).read()["name"].to_pylist() == ["pear"]


def test_a_stage_is_newer_than_every_night_of_its_table_whatever_the_clock_says(
    program, monkeypatch, tmp_path
):
    program(ds="2017-11-01")
    an_hour_ago = time.time_ns() - 3_600 * 10**9
    monkeypatch.setattr(time, "time_ns", lambda: an_hour_ago)
    (tmp_path / "tables/fruit/v1/ds=2017-11-01.tar.gz").write_text("somebody's backup")
    assert program(ds="2017-10-31") == 0
    before, after = (get(tmp_path, FRUIT, date(2017, *day)) for day in ((11, 1), (10, 31)))
    assert after.manifest.run > before.manifest.run


def test_a_try_that_fails_leaves_no_run_behind(program, tmp_path):
    program()
    program.basket.write_text("worm")
    assert program() == 65
    (run,) = (tmp_path / "tables/fruit/v1/ds=2017-10-31").glob("run=*")
    assert run == get(tmp_path, FRUIT, date(2017, 10, 31)).path


def test_what_was_published_stays_where_a_newer_run_has_replaced_it_meanwhile(tmp_path, make_night):
    older, newer = make_night(), make_night()
    for night in (older, newer):
        run = night.draft(FRUIT)
        run.write(pa.table({"name": ["apple"]}))
        night.publish(run)
    older.discard_drafts()
    assert len(list((tmp_path / "tables/fruit/v1/ds=2017-10-31").glob("run=*"))) == 2


def test_op23_nothing_is_published_from_an_input_that_was_replaced_meanwhile(
    publish_rows, tmp_path, make_night
):
    read = publish_rows(FRUIT, [{"name": "apple"}]).as_input()
    night = make_night(inputs=[read], ds=date(2017, 11, 1))
    publish_rows(FRUIT, [{"name": "apple"}])
    made = night.draft(FRUIT)
    made.write(pa.table({"name": ["cake"]}))
    before = night.publish(made)
    newer = publish_rows(FRUIT, [{"name": "pear"}])
    night = make_night(inputs=[read], ds=date(2017, 11, 1))
    made = night.draft(FRUIT)
    made.write(pa.table({"name": ["pie"]}))
    with pytest.raises(StaleWriterError, match=f"run {newer.manifest.run} of .* {read.run} was in"):
        night.publish(made)
    assert get(tmp_path, FRUIT, night.ds).manifest == before.manifest


def test_a_stage_may_write_no_table(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(sys, "argv", ["talk", "--ds", "2017-10-31", "--root", str(tmp_path)])
    stage = Stage("schemas.talk", "Talk.", (), lambda root, ds, settings: [], (), always=True)
    with pytest.raises(SystemExit) as caught:
        run(stage, lambda night: print(night.ds))
    assert (caught.value.code, capsys.readouterr().out) == (0, "2017-10-31\n")
