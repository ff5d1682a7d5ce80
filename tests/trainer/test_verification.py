import shlex
from datetime import date, timedelta

from trainer import promotion, registry_commands
from trainer.journal import JOURNAL_FILE, Journal
from trainer.verification import verify

DS = date(2017, 10, 31)


def wrongs(registry):
    return [finding.wrong for finding in verify(registry)[0]]


def test_nothing_is_wrong_with_an_empty_registry_or_one_that_promoted(registry, night_of):
    assert verify(registry) == ([], None)
    promotion.main(night_of([0.5] * 4))
    assert verify(registry) == ([], registry.champion())


def test_a_damaged_artifact_is_named_under_every_alias_it_has(two_champions):
    folder = two_champions.download(two_champions.champion())
    (folder / "weights.safetensors").unlink()
    found = wrongs(two_champions)
    assert [wrong.split(":")[0] for wrong in found] == ["champion", "candidate"]
    assert "version 2 of penumbra with no artifact" in found[0]


def test_an_alias_moved_past_the_journal_is_mended_by_the_command_it_names(two_champions):
    two_champions.point("champion", two_champions.get(1))
    ((finding,), _) = verify(two_champions)
    assert finding.wrong == "champion is version 1, the journal's last move left 2"
    python, option, program = shlex.split(finding.mend)
    assert (python, option) == ("python", "-c")
    exec(program)  # as Python does it in a process that it would have to load MLflow for
    assert wrongs(two_champions) == []


def test_an_interrupted_move_is_one_finding(two_champions):
    Journal(two_champions.root).append("rollback", "intent", "operator", "worse", 1, 2)
    assert wrongs(two_champions) == ["rollback of version 1 was interrupted"]


def test_an_interrupted_promotion_is_mended_without_holding_the_registry(two_champions):
    Journal(two_champions.root).append("promote", "intent", "operator", "better", 1, 2)
    ((finding,), _) = verify(two_champions)
    python, option, module, *command = shlex.split(finding.mend.split(",")[0])
    assert (python, option, module) == ("python", "-m", "trainer.registry")
    assert registry_commands.main([*command, "--root", str(two_champions.root)]) == 0
    assert wrongs(two_champions) == []
    assert Journal(two_champions.root).hold() is None


def test_a_broken_journal_is_named(two_champions):
    path = two_champions.root / JOURNAL_FILE
    path.write_bytes(path.read_bytes().replace(b"promote", b"PROMOTE", 1))
    (wrong,) = wrongs(two_champions)
    assert f"line 2 of {path} not the successor" in wrong


def test_op03_a_champion_without_a_passing_gate_record_is_named(two_champions, night_of):
    promotion.main(night_of([0.1] * 4, DS + timedelta(days=2)))
    two_champions.point("champion", two_champions.get(3))
    assert wrongs(two_champions)[-1] == "champion, version 3, has no gate record that passed"
