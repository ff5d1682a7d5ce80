import pytest

from schemas.errors import RegistryError
from trainer.journal import Journal


@pytest.fixture
def journal(tmp_path):
    return Journal(tmp_path)


def promote(journal, version, *states):
    for state in states:
        journal.append("promote", state, "night", "passed", version, version - 1 or None)


def test_a_journal_nobody_wrote_is_empty(journal):
    assert journal.entries() == []
    assert journal.pending() is None
    assert journal.hold() is None


def test_what_was_appended_is_read_in_order(journal):
    promote(journal, 1, "intent", "done")
    promote(journal, 2, "intent", "done")
    assert [(e.version, e.replaces, e.state) for e in journal.entries()] == [
        (1, None, "intent"),
        (1, None, "done"),
        (2, 1, "intent"),
        (2, 1, "done"),
    ]


def test_an_intent_without_its_done_is_pending(journal):
    promote(journal, 1, "intent", "done")
    assert journal.pending() is None
    promote(journal, 2, "intent")
    assert journal.pending().version == 2


@pytest.mark.parametrize("length", [1, 40, -1])
def test_a_line_cut_short_by_a_kill_never_took_place(journal, length):
    promote(journal, 1, "intent", "done")
    whole = journal.path.read_bytes()
    promote(journal, 2, "intent")
    line = journal.path.read_bytes()[len(whole) :]
    journal.path.write_bytes(whole + line[:length])
    assert journal.pending() is None
    promote(journal, 3, "intent")
    assert [e.version for e in journal.entries()] == [1, 1, 3]


@pytest.mark.parametrize("line", [0, 1])
def test_a_lost_line_is_found(journal, line):
    promote(journal, 1, "intent", "done")
    promote(journal, 2, "intent")
    lines = journal.path.read_bytes().splitlines(keepends=True)
    del lines[line]
    journal.path.write_bytes(b"".join(lines))
    with pytest.raises(RegistryError, match=rf"line {line + 1} of .* not the successor"):
        journal.entries()


def test_a_changed_line_is_found(journal):
    promote(journal, 1, "intent", "done")
    text = journal.path.read_text()
    journal.path.write_text(text.replace('"version": 1', '"version": 7', 1))
    with pytest.raises(RegistryError, match=r"line 2 .* only ever appended"):
        journal.entries()


def test_an_unreadable_line_is_named_and_nothing_is_appended_to_it(journal):
    journal.path.write_text("{}\n")
    with pytest.raises(RegistryError, match=r"line 1 of .* unreadable"):
        promote(journal, 1, "intent")
    assert journal.path.read_text() == "{}\n"


@pytest.mark.parametrize(
    ("actions", "held_by"),
    [
        (["hold"], "hold"),
        (["hold", "release"], None),
        (["release", "rollback"], "rollback"),
        (["rollback", "promote"], "rollback"),
        (["hold", "release", "promote"], None),
    ],
)
def test_op05_a_hold_or_a_rollback_holds_until_released(journal, actions, held_by):
    for action in actions:
        journal.append(action, "done", "operator", "because")
    assert (journal.hold().action if journal.hold() else None) == held_by
