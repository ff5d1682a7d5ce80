"""Decisions that await a person, and what an answer makes of them."""

import shutil
import subprocess
import sys
from argparse import Namespace
from dataclasses import replace
from datetime import date, timedelta

import pytest

from schemas.errors import RegistryError, UsageError
from schemas.partitions import partition_path
from schemas.promotions import PROMOTIONS, PROMOTIONS_2, find_ledger, ledger_dates
from schemas.publishing import new_token
from schemas.settings import Settings
from trainer import operations, promotion, registry_commands
from trainer.journal import Journal
from trainer.ledger import decisions, last_promotion, opponent, served
from trainer.registry import Registry
from trainer.verification import verify

DS = date(2017, 10, 31)
NEXT = DS + timedelta(days=1)
GOOD, BETTER, BAD = [0.5] * 4, [0.6] * 4, [0.2] * 4
GATE = {"min_users": 4, "canary_users": 0, "approval": "required"}


class Crash(BaseException):
    """A process that dies here."""


@pytest.fixture
def asking(decided, night_of):
    """Version 1 serves; the next night's better candidate is decided on and needs approval."""
    decided(1)
    night = night_of(BETTER, NEXT)
    night.settings = Settings.model_validate({"gate": GATE})
    return night


def answer(night, kind, by="alice", decision=None):
    """The stage with an answer, as a later process would run it; returns the night's ledger."""
    options = Namespace(answer=kind, by=by, decision=decision)
    promotion.main(replace(night, token=new_token(), options=options))
    return decisions(night.root, night.ds)


def run(night):
    promotion.main(replace(night, token=new_token()))
    return decisions(night.root, night.ds)


def test_op03_what_passes_awaits_approval_and_moves_nothing(registry, asking, capsys):
    (row,) = run(asking)
    assert (row["outcome"], row["verdict"], row["answered_by"]) == ("awaiting", "promote", None)
    assert registry.champion().number == 1
    assert registry.aliased("candidate").number == 2
    assert (
        capsys.readouterr()
        .out.splitlines()[-1]
        .startswith("promotion 2017-11-01: awaiting version 2: lower end of the 95% interval")
    )


def test_op03_deciding_again_without_an_answer_still_moves_nothing(registry, asking):
    ledger = run(asking)
    assert run(asking) == ledger
    assert registry.champion().number == 1


def test_what_does_not_pass_awaits_nobody(registry, night_of):
    promotion.main(night_of(GOOD))
    night = night_of(BAD, NEXT, champion=GOOD)
    night.settings = Settings.model_validate({"gate": GATE})
    assert [row["outcome"] for row in run(night)] == ["hold"]


def test_a_held_registry_and_a_dry_run_ask_nobody(registry, asking):
    operations.hold(registry, "sale of the year")
    assert run(asking)[-1]["outcome"] == "hold"
    asking.settings = Settings.model_validate({"gate": GATE | {"mode": "dry_run"}})
    assert run(asking)[-1]["outcome"] == "hold"


def test_an_approval_promotes_and_names_who_gave_it(registry, asking):
    run(asking)
    decided, row = answer(asking, "approve")
    assert (row["outcome"], row["answered_by"]) == ("promote", "alice")
    assert row["reason"] == f"approved by alice; the gate passed: {decided['reason']}"
    assert registry.champion().number == 2
    assert Journal(registry.root).moves()[-1].reason == row["reason"]
    tags = registry.client.get_model_version("penumbra", "2").tags
    assert tags["penumbra.outcome"] == "promote"


@pytest.mark.parametrize(
    ("kind", "by", "reason"),
    [("reject", "bob", "rejected by bob"), ("timeout", None, "nobody answered within 12 h")],
)
def test_a_rejection_and_a_timeout_hold(registry, asking, kind, by, reason):
    run(asking)
    row = answer(asking, kind, by)[-1]
    assert (row["outcome"], row["verdict"], row["answered_by"]) == ("hold", "promote", by)
    assert row["reason"].startswith(f"{reason}; the gate passed: lower end of the 95% interval")
    assert registry.champion().number == 1


def test_an_answer_counts_once(registry, asking):
    run(asking)
    ledger = answer(asking, "reject", "bob")
    for kind in ("reject", "timeout"):
        assert answer(asking, kind) == ledger
    with pytest.raises(RegistryError, match=r"found approve by alice; .* as rejected by bob"):
        answer(asking, "approve")
    assert decisions(asking.root, NEXT) == ledger
    assert registry.champion().number == 1


def test_a_rejection_after_an_approval_is_refused_by_name(registry, asking):
    run(asking)
    ledger = answer(asking, "approve")
    with pytest.raises(RegistryError, match=r"promote was decided at .* as approved by alice"):
        answer(asking, "reject", "bob")
    assert decisions(asking.root, NEXT) == ledger
    assert registry.champion().number == 2


def test_op03_an_approval_of_a_held_registry_holds(registry, asking):
    run(asking)
    operations.hold(registry, "wait")
    row = answer(asking, "approve")[-1]
    assert row["reason"].startswith("approved by alice, but the registry is held since the hold")
    assert (row["outcome"], registry.champion().number) == ("hold", 1)


def test_op04_an_approval_against_another_champion_holds(registry, asking, night_of):
    run(asking)
    promotion.main(night_of([0.9] * 4, DS + timedelta(days=2)))
    row = answer(asking, "approve")[-1]
    assert row["reason"].startswith("approved by alice, but champion is 3 now, it was 1")
    assert (row["outcome"], registry.champion().number) == ("hold", 3)


def test_an_approval_of_what_the_operator_promoted_meanwhile_moves_it_no_more(registry, asking):
    run(asking)
    operations.promote(registry, 2, "on the phone")
    moves = Journal(registry.root).moves()
    assert answer(asking, "approve")[-1]["outcome"] == "promote"
    assert Journal(registry.root).moves() == moves
    assert registry.champion().number == 2


def test_an_answer_to_a_decision_that_was_replaced_is_refused(registry, asking):
    (row,) = run(asking)
    with pytest.raises(RegistryError, match="which has replaced it"):
        answer(asking, "approve", decision=row["decided_at"] - timedelta(seconds=1))
    assert answer(asking, "approve", decision=row["decided_at"])[-1]["outcome"] == "promote"


def test_an_answer_counts_though_settings_of_the_gate_changed_meanwhile(registry, asking):
    run(asking)
    asking.settings = Settings.model_validate({"gate": GATE | {"approval_timeout_hours": 3}})
    assert answer(asking, "approve")[-1]["outcome"] == "promote"
    assert registry.champion().number == 2


def test_an_approval_in_what_has_become_a_dry_run_moves_nothing(registry, asking):
    run(asking)
    asking.settings = Settings.model_validate({"gate": GATE | {"mode": "dry_run"}})
    row = answer(asking, "approve")[-1]
    assert row["outcome"] == "hold"
    assert row["reason"].startswith("approved by alice, in a dry run; the gate passed: ")
    assert registry.champion().number == 1


def test_an_answer_before_any_decision_is_refused(registry, asking):
    with pytest.raises(RegistryError, match="an answer to no decision"):
        answer(asking, "approve")
    assert decisions(asking.root, NEXT) == []


def test_an_approval_by_nobody_is_refused(registry, asking):
    run(asking)
    for by in ("", " "):
        with pytest.raises(UsageError, match="--answer approve by nobody"):
            answer(asking, "approve", by)
    assert registry.champion().number == 1


@pytest.mark.parametrize(
    ("owner", "method", "first"),
    [(Registry, "tag", None), (Journal, "append", "promote"), (Registry, "point", "champion")],
)
def test_op07_an_approval_cut_short_is_finished_once(
    registry, asking, monkeypatch, owner, method, first
):
    run(asking)
    real = getattr(owner, method)

    def dying(self, *arguments):
        if first is None or arguments[0] == first:
            raise Crash
        return real(self, *arguments)

    with monkeypatch.context() as broken, pytest.raises(Crash):
        broken.setattr(owner, method, dying)
        answer(asking, "approve")
    assert registry.champion().number == 1
    ledger = answer(asking, "approve")
    assert [row["outcome"] for row in ledger] == ["awaiting", "promote"]
    assert answer(asking, "approve") == ledger
    assert registry.champion().number == 2
    assert [move.version for move in Journal(registry.root).moves()] == [1, 2]


def test_op05_an_approval_run_again_does_not_undo_a_rollback(registry, asking):
    run(asking)
    answer(asking, "approve")
    operations.rollback(registry, None, "worse")
    operations.release(registry, "understood")
    answer(asking, "approve")
    assert registry.champion().number == 1


def test_op03_a_promotion_decided_before_approval_was_required_is_not_finished_without(
    registry, asking, monkeypatch
):
    required, asking.settings = (
        asking.settings,
        Settings.model_validate({"gate": GATE | {"approval": "none"}}),
    )
    with monkeypatch.context() as broken, pytest.raises(Crash):
        broken.setattr(promotion, "_move", lambda *_: (_ for _ in ()).throw(Crash))
        run(asking)
    asking.settings = required
    run(asking)
    assert registry.champion().number == 1


def test_op03_a_promotion_is_not_finished_by_a_gate_that_decides_without_consequence(
    registry, asking, monkeypatch
):
    enforced = asking.settings = Settings.model_validate({"gate": GATE | {"approval": "none"}})
    with monkeypatch.context() as broken, pytest.raises(Crash):
        broken.setattr(promotion, "_move", lambda *_: (_ for _ in ()).throw(Crash))
        run(asking)
    asking.settings = Settings.model_validate(
        {"gate": GATE | {"approval": "none", "mode": "dry_run"}}
    )
    run(asking)
    assert registry.champion().number == 1
    asking.settings = enforced
    run(asking)
    assert registry.champion().number == 2


def test_a_damaged_artifact_is_not_promoted_by_an_approval(registry, asking):
    run(asking)
    (registry.download(registry.get(2)) / "weights.safetensors").write_bytes(b"")
    with pytest.raises(RegistryError, match="version 2 of penumbra with weights"):
        answer(asking, "approve")
    assert registry.champion().number == 1


@pytest.mark.parametrize("kind", [None, "reject"])
def test_an_operator_may_promote_what_awaits_or_was_rejected(registry, asking, kind):
    run(asking)
    if kind:
        answer(asking, kind, "bob")
    operations.promote(registry, 2, "my own decision")
    assert registry.champion().number == 2
    assert verify(registry)[0] == []


def test_status_says_that_an_answer_is_awaited_until_it_is_given(registry, asking, capsys):
    status, words = ["status", "--root", str(registry.root)], "awaiting: a person's answer about"
    run(asking)
    registry_commands.main(status)
    assert words in capsys.readouterr().out
    answer(asking, "reject", "bob")
    registry_commands.main(status)
    assert words not in capsys.readouterr().out


def test_while_a_decision_awaits_the_old_champion_serves_its_night(registry, asking, night_of):
    (row,) = run(asking)
    assert served(registry, NEXT).number == 1
    assert opponent(registry, NEXT, row["candidate_digest"], NEXT).number == 1
    assert last_promotion(registry.root)["candidate_version"] == 1
    assert verify(registry)[0] == []
    promotion.main(night_of([0.9] * 4, DS + timedelta(days=2)))
    assert served(registry, NEXT).number == 1


def test_a_ledger_from_before_approvals_is_read_and_carried_on(
    registry, asking, publish_rows, night_of
):
    """Its schema digest is that of the last release with version 2."""
    assert PROMOTIONS_2.schema_digest.startswith("158d43ae3cd411fb")
    (row,) = decisions(asking.root, DS)
    shutil.rmtree(partition_path(asking.root, PROMOTIONS, DS))
    publish_rows(PROMOTIONS_2, [{k: v for k, v in row.items() if k != "answered_by"}], DS)
    assert find_ledger(asking.root, DS).contract is PROMOTIONS_2
    assert decisions(asking.root, DS) == [row]
    assert ledger_dates(asking.root) == [DS]
    assert verify(registry)[0] == []
    ledger = run(night_of(BAD, DS, seed=7, champion=GOOD))
    assert ledger[0] == row and len(ledger) == 2
    assert find_ledger(asking.root, DS).contract is PROMOTIONS


def test_the_command_line_takes_an_answer(registry, asking, monkeypatch):
    run(asking)
    for key, value in GATE.items():
        monkeypatch.setenv(f"PENUMBRA_GATE__{key.upper()}", str(value))
    command = [sys.executable, "-m", "trainer.promotion", "--ds", str(NEXT)]
    command += ["--root", str(asking.root), "--answer", "approve", "--by", "alice"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "promote version 2: approved by alice" in done.stdout
    assert registry.champion().number == 2
