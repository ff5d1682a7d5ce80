import fcntl
import itertools
import os
import random
import signal
import threading
from dataclasses import replace
from datetime import date, timedelta
from functools import partial

import pytest
from mlflow.tracking import MlflowClient

from schemas.errors import PenumbraError, RegistryError, UsageError
from schemas.partitions import get
from schemas.promotions import PROMOTIONS
from schemas.publishing import new_token
from trainer import operations, promotion, verification
from trainer.journal import JOURNAL_FILE, Journal
from trainer.ledger import decisions
from trainer.registry import PREVIOUS, Registry
from trainer.versions import CHAMPION

DS = date(2017, 10, 31)
STEPS = [
    (Registry, "register"),
    (MlflowClient, "create_model_version"),
    (MlflowClient, "set_registered_model_alias"),
    (Registry, "tag"),
    (promotion, "record"),
    (Journal, "append"),
]
"""Whatever changes the registry, a ledger or the journal: owner and name."""


@pytest.fixture
def no_pool(monkeypatch):
    """Forked processes get connections of their own."""
    monkeypatch.setenv("MLFLOW_SQLALCHEMYSTORE_POOLCLASS", "NullPool")


def promoted(night):
    promotion.main(night)
    return night


def again(night):
    return replace(night, token=new_token())


def served(registry):
    """The numbers of champion and previous version."""
    found = registry.champion(), registry.aliased(PREVIOUS)
    return tuple(version.number if version else None for version in found)


def assert_consistent(registry):
    """One champion with its artifact and gate record, which the journal's moves lead to."""
    journal, champion = Journal(registry.root), registry.champion()
    registry.download(champion)
    assert operations.has_passed(operations.gate_record(registry, champion))
    assert journal.pending() is None
    moves = journal.moves()
    assert [m.replaces for m in moves[1:]] == [m.version for m in moves[:-1]]
    assert (moves[-1].version, moves[-1].replaces) == served(registry)


def is_killed_at(fatal, run):
    """Runs in a forked process that kills itself before its n-th step; whether it got there."""
    child = os.fork()
    if not child:
        taken = itertools.count()

        def counted(real):
            def step(*arguments, **named):
                if next(taken) == fatal:
                    os.kill(os.getpid(), signal.SIGKILL)
                return real(*arguments, **named)

            return step

        try:
            for owner, name in STEPS:
                setattr(owner, name, counted(getattr(owner, name)))
            run()
        except BaseException:
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.waitstatus_to_exitcode(status) == 0
    return os.WIFSIGNALED(status)


def test_op07_a_promotion_killed_between_any_two_steps_is_finished(
    no_pool, registry, decided, next_night
):
    decided(1)
    for step in itertools.count():
        night, before = next_night(), registry.champion().number
        was_killed = is_killed_at(step, lambda night=night: promotion.main(night))
        registry.download(registry.champion())
        assert registry.champion().number in (before, before + 1)
        promotion.main(again(night))
        assert_consistent(registry)
        assert registry.champion().number == before + 1
        assert [row["outcome"] for row in decisions(night.root, night.ds)] == ["promote"]
        if not was_killed:
            break
    assert step == 9  # register, create, candidate, record, tag, intent, previous, champion, done
    assert len(registry.client.search_model_versions("name = 'penumbra'")) == step + 2


def test_op05_a_rollback_killed_between_any_two_steps_is_finished(no_pool, registry, decided):
    decided(2)
    for step in itertools.count():
        assert registry.champion().number == 2
        was_killed = is_killed_at(step, lambda: operations.rollback(registry, None, "worse"))
        registry.download(registry.champion())
        operations.release(registry, "whoever takes the lock next")
        assert_consistent(registry)
        assert registry.champion().number == (1 if step else 2)
        if not was_killed:
            break
        operations.promote(registry, 2, "back again")
    assert step == 4  # intent, previous, champion, done


def test_op05_an_interrupted_rollback_that_is_repeated_goes_back_once(no_pool, registry, decided):
    decided(3)
    for step in range(4):
        assert is_killed_at(step, lambda: operations.rollback(registry, None, "worse"))
        operations.rollback(registry, None, "worse")
        assert served(registry) == (2, 3), step
        operations.release(registry, "mended")
        operations.promote(registry, 3, "back again")


def interleave(monkeypatch, seed, *runs):
    """Runs all at once, a step at a time, the next one drawn; returns their errors."""
    draw, turns, back = random.Random(seed), {}, threading.Semaphore(0)
    finished, errors = set(), []

    def wait():
        turn = turns.get(threading.current_thread())
        if turn:
            back.release()
            turn.acquire()

    def yielding(real):
        def step(*arguments, **named):
            wait()
            return real(*arguments, **named)

        return step

    def flock(file, operation, real=fcntl.flock):
        while True:
            try:
                return real(file, operation | fcntl.LOCK_NB)
            except BlockingIOError:
                wait()

    def actor(run):
        turns[threading.current_thread()].acquire()
        try:
            run()
        except PenumbraError as error:
            errors.append(error)
        finally:
            finished.add(threading.current_thread())
            back.release()

    threads = [threading.Thread(target=actor, args=(run,), daemon=True) for run in runs]
    turns |= {thread: threading.Semaphore(0) for thread in threads}
    with monkeypatch.context() as patched:
        patched.setattr(fcntl, "flock", flock)
        for name in ("champion", "download", "point"):
            patched.setattr(Registry, name, yielding(getattr(Registry, name)))
        patched.setattr(Journal, "append", yielding(Journal.append))
        for thread in threads:
            thread.start()
        while running := [thread for thread in threads if thread not in finished]:
            turns[draw.choice(running)].release()
            back.acquire()
    return errors


def test_op04_promoters_and_a_rollback_in_any_order_leave_one_champion(
    registry, decided, next_night, monkeypatch
):
    decided(2)
    operations.hold(registry, "until both are decided")
    promoted(next_night())
    promoted(next_night())
    start, journal = registry.champion(), (registry.root / JOURNAL_FILE).read_bytes()
    previous, endings = registry.aliased(PREVIOUS), set()
    for seed in range(30):
        (registry.root / JOURNAL_FILE).write_bytes(journal)
        registry.point(CHAMPION, start)
        registry.point(PREVIOUS, previous)
        errors = interleave(
            monkeypatch,
            seed,
            lambda: operations.promote(registry, 3, "mine"),
            lambda: operations.promote(registry, 4, "no, mine"),
            lambda: operations.rollback(registry, None, "neither"),
        )
        assert_consistent(registry)
        moves = tuple(m.version for m in Journal(registry.root).moves()[2:])
        assert len(moves) + len(errors) == 3, (seed, moves, errors)
        assert all(isinstance(error, PenumbraError) for error in errors)
        endings.add(moves)
    # A second promotion wins only after the rollback of the first.
    assert endings == {(1,), (3, 2), (4, 2), (3, 2, 4), (4, 2, 3)}


def test_op05_a_rollback_goes_back_to_what_the_champion_replaced(registry, decided):
    decided(3)
    operations.rollback(registry, None, "worse")
    assert served(registry) == (2, 3)
    operations.rollback(registry, None, "worse still")
    assert served(registry) == (1, 2)
    with pytest.raises(RegistryError, match="version 1, which replaced none"):
        operations.rollback(registry, None, "even worse")


def test_op05_a_rollback_to_an_earlier_champion_is_one_step(registry, decided):
    decided(3)
    operations.rollback(registry, 1, "worse")
    assert served(registry) == (1, 3)
    assert Journal(registry.root).entries()[-1].reason == "worse"


def test_op05_a_rollback_goes_back_past_champions_from_before_the_journal(registry, decided):
    decided(2)
    (registry.root / JOURNAL_FILE).unlink()
    assert operations.rollback(registry, None, "worse").serves.number == 1


def test_op03_a_version_without_a_passing_record_is_neither_promoted_nor_gone_back_to(
    registry, decided, night_of
):
    decided(1)
    promoted(night_of([0.1] * 4, DS + timedelta(days=20)))
    for move in (operations.promote, operations.rollback):
        with pytest.raises(RegistryError, match=r"hold: .* on version 2 .* a gate record that"):
            move(registry, 2, "I like it")
    assert served(registry) == (1, None)


def test_op03_a_record_against_another_champion_does_not_promote(registry, decided, next_night):
    decided(1)
    operations.hold(registry, "wait")
    for _ in range(2):
        promoted(next_night())
    operations.promote(registry, 2, "first")
    with pytest.raises(RegistryError, match=r"version 3 against version 1; .* champion, 2"):
        operations.promote(registry, 3, "second")


def test_op06_an_older_version_is_promoted_by_a_rollback_only(registry, decided):
    decided(2)
    with pytest.raises(UsageError, match="rollback --to 1"):
        operations.promote(registry, 1, "it was good")


def test_a_dry_run_changes_nothing(registry, decided):
    decided(2)
    before = (registry.root / JOURNAL_FILE).read_bytes()
    assert operations.rollback(registry, None, "worse", dry_run=True).serves.number == 1
    operations.hold(registry, "wait", dry_run=True)
    assert (registry.root / JOURNAL_FILE).read_bytes() == before
    assert served(registry) == (2, 1)


def test_op05_a_rollback_that_finds_an_interrupted_promotion_asks_again(
    registry, decided, next_night, monkeypatch
):
    decided(2)
    interrupt_before_the_champion_moves(monkeypatch, next_night())
    # Version 2 is bad, and what 3 has just replaced: a rollback from 3 would end there.
    with pytest.raises(RegistryError, match="until then version 2 served; exp"):
        operations.rollback(registry, None, "2 is bad")
    assert served(registry) == (3, 2)
    operations.rollback(registry, 1, "2 is bad")
    assert served(registry) == (1, 3)


def test_op05_a_rollback_after_an_interrupted_first_promotion_has_nowhere_to_go(
    registry, next_night, monkeypatch
):
    interrupt_before_the_champion_moves(monkeypatch, next_night())
    with pytest.raises(RegistryError, match="version 1, which replaced none"):
        operations.rollback(registry, None, "1 is bad")


def test_op05_one_rollback_is_enough_where_the_interrupted_promotion_served_already(
    registry, decided, next_night, monkeypatch
):
    decided(2)
    night = next_night()
    with monkeypatch.context() as broken, pytest.raises(KeyboardInterrupt):
        broken.setattr(Journal, "append", interrupted_when_done(Journal.append))
        promotion.main(night)
    assert served(registry) == (3, 2)
    operations.rollback(registry, None, "3 is bad")
    assert served(registry) == (2, 3)


def test_op05_a_damaged_ledger_of_another_night_keeps_nobody_from_a_rollback(registry, decided):
    decided(3)
    get(registry.root, PROMOTIONS, DS + timedelta(days=2)).files[0].write_bytes(b"")
    operations.rollback(registry, 2, "worse")
    assert served(registry) == (2, 3)


def test_op03_nothing_is_promoted_past_an_alias_that_was_moved(registry, decided, next_night):
    decided(2)
    registry.client.delete_registered_model_alias(registry.name, CHAMPION)
    night = next_night()  # scored against nobody
    for promote in (partial(promotion.main, night), partial(operations.promote, registry, 2, "so")):
        with pytest.raises(RegistryError, match="champion: none; expected version 2, which the"):
            promote()
    assert decisions(registry.root, night.ds) == []


def test_a_rollback_to_a_damaged_artifact_leaves_the_champion(registry, decided):
    decided(2)
    (registry.download(registry.get(1)) / "weights.safetensors").write_bytes(b"")
    with pytest.raises(RegistryError, match="version 1 of penumbra with weights"):
        operations.rollback(registry, None, "worse")
    assert served(registry) == (2, 1)
    assert Journal(registry.root).pending() is None


def test_a_release_of_what_is_not_held_is_no_entry(registry, decided):
    decided(1)
    assert operations.release(registry, "why not").words.startswith("unchanged")
    assert Journal(registry.root).entries()[-1].action == "promote"


def test_op05_a_version_that_once_passed_is_gone_back_to_whatever_was_decided_later(
    registry, decided, night_of
):
    decided(2)
    promoted(night_of([0.1] * 4, DS, champion=[0.9] * 4))  # the first night again, and held
    first, repeated = decisions(registry.root, DS)
    assert first["candidate_digest"] == repeated["candidate_digest"]
    assert (first["outcome"], repeated["outcome"]) == ("promote", "hold")
    assert operations.rollback(registry, None, "worse").serves.number == 1
    findings, _ = verification.verify(registry)
    assert not findings


def test_a_dry_run_leaves_what_was_interrupted_to_others(
    registry, decided, next_night, monkeypatch
):
    decided(1)
    interrupt_before_the_champion_moves(monkeypatch, next_night())
    before = (registry.root / JOURNAL_FILE).read_bytes()
    for operation in (
        partial(operations.rollback, registry, None),
        partial(operations.hold, registry),
    ):
        with pytest.raises(RegistryError, match="found an interrupted promote of version 2"):
            operation("worse", dry_run=True)
    assert (registry.root / JOURNAL_FILE).read_bytes() == before
    assert registry.champion().number == 1


def interrupt_before_the_champion_moves(monkeypatch, night):
    with monkeypatch.context() as broken, pytest.raises(KeyboardInterrupt):
        broken.setattr(Registry, "point", interrupted_at(CHAMPION, Registry.point))
        promotion.main(night)


def interrupted_when_done(append):
    def interrupted(self, action, state, *arguments):
        if state == "done":
            raise KeyboardInterrupt
        return append(self, action, state, *arguments)

    return interrupted


def interrupted_at(alias, point):
    def interrupted(self, name, version):
        if name == alias:
            raise KeyboardInterrupt
        point(self, name, version)

    return interrupted
