import json
import subprocess
import sys
from datetime import date

import pytest

from trainer.registry_commands import main

DS = date(2017, 10, 31)


@pytest.fixture
def call(registry, capsys):
    """Runs a command; returns exit code, lines printed and what it says on stderr."""

    def call(*arguments):
        capsys.readouterr()
        code = main([*arguments, "--root", str(registry.root)])
        printed = capsys.readouterr()
        return code, printed.out.splitlines(), printed.err

    return call


def test_status_of_an_empty_registry(call):
    code, lines, _ = call("status")
    assert (code, lines[0], lines[-1]) == (0, "champion: none", "serves: none")


def test_a_root_that_is_not_there_is_an_error_and_none_is_made(tmp_path, capsys):
    assert main(["status", "--root", str(tmp_path / "typo")]) == 64
    line = f"trainer.registry: UsageError: found no folder {tmp_path}/typo; expected the root"
    assert capsys.readouterr().err.startswith(line)
    assert not (tmp_path / "typo").exists()


def test_status_names_all_aliases_and_the_hold(two_champions, call):
    call("hold", "--reason", "sale of the year")
    _, lines, _ = call("status")
    assert lines[0] == "champion: version 2 of 2017-11-01, trained until 2017-11-01"
    assert lines[1].startswith("previous: version 1 of 2017-10-31")
    assert lines[3].startswith("held: since the hold of 20")
    assert lines[3].endswith("by operator: sale of the year")


def test_op05_one_command_rolls_back_and_says_what_serves(two_champions, call):
    code, lines, _ = call("rollback", "--reason", "worse on Sundays")
    assert code == 0
    assert lines == [
        "rollback from version 2; held until released",
        "serves: version 1 of 2017-10-31",
    ]
    assert two_champions.champion().number == 1


def test_a_dry_run_says_what_would_serve(two_champions, call):
    _, lines, _ = call("rollback", "--reason", "worse", "--dry-run")
    assert lines[0].startswith("dry run, nothing changed: rollback from version 2")
    assert lines[-1] == "serves: version 1 of 2017-10-31"
    assert two_champions.champion().number == 2


def test_history_has_a_line_per_move_hold_and_release(two_champions, call):
    call("rollback", "--to", "1", "--reason", "worse on Sundays")
    call("release", "--reason", "understood")
    call("promote", "2", "--reason", "was right after all")
    _, lines, _ = call("history")
    assert [line.split(" of ")[0] for line in lines[:-1]] == [
        "promote none to 1",
        "promote 1 to 2",
        "rollback 2 to 1",
        "release",
        "promote 1 to 2",
    ]


@pytest.mark.parametrize(
    "command",
    [
        ["status"],
        ["history"],
        ["explain", "2"],
        ["verify"],
        ["promote", "2", "--reason", "again"],
        ["rollback", "--reason", "worse", "--dry-run"],
        ["hold", "--reason", "wait", "--dry-run"],
        ["release", "--reason", "go"],
        ["collect-garbage", "--dry-run"],
    ],
    ids=lambda command: command[0],
)
def test_every_command_speaks_json(two_champions, call, command):
    code, lines, error = call(*command, "--json")
    facts = json.loads("\n".join(lines))
    assert (code, error) == (0, "")
    assert facts["serves"]["number"] == (1 if command[0] == "rollback" else 2)


def test_verify_prints_findings_and_ends_with_76(two_champions, call):
    assert call("verify")[0] == 0
    two_champions.point("champion", two_champions.get(1))
    code, lines, error = call("verify")
    assert code == 76
    assert lines[0].startswith("champion is version 1, the journal's last move left 2; mend: ")
    assert error.startswith("trainer.registry: RegistryError: found 1 finding")


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["rollback"], 64),
        (["rollback", "--reason", " "], 64),
        (["promote", "1", "--reason", "was good"], 64),
        (["promote", "9", "--reason", "new"], 76),
        (["rollback", "--to", "9", "--reason", "old"], 76),
        (["improve"], 64),
    ],
)
def test_errors_are_one_line_and_an_exit_code(two_champions, call, arguments, code):
    found, lines, error = call(*arguments)
    assert (found, lines) == (code, [])
    assert error.startswith("trainer.registry: ")
    assert error.count("\n") == 1


def test_a_store_that_does_not_answer_is_one_line_and_worth_a_retry(call, monkeypatch):
    monkeypatch.setenv("PENUMBRA_REGISTRY__TRACKING_URI", "http://127.0.0.1:1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    code, _, error = call("status")
    assert (code, error.count("\n")) == (1, 1)


def test_the_module_is_the_command(registry):
    command = [sys.executable, "-m", "trainer.registry", "status", "--root", str(registry.root)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "serves: none"


def test_what_loads_no_model_starts_without_torch_which_would_take_it_a_second():
    modules = "trainer.registry_commands, trainer.promotion, trainer.freshness, trainer.compare"
    program = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
