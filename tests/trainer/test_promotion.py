import json
import subprocess
import sys
from argparse import Namespace
from dataclasses import replace
from datetime import date, timedelta

import pytest

from schemas.checkpoints import CHECKPOINTS
from schemas.errors import RegistryError
from schemas.items import ITEMS
from schemas.partitions import find, get
from schemas.promotions import PROMOTIONS
from schemas.publishing import new_token
from schemas.settings import Settings
from trainer import canary, operations, promotion
from trainer.journal import Journal
from trainer.ledger import decisions
from trainer.registry import PREVIOUS, Registry

DS = date(2017, 10, 31)
GOOD, BETTER, BAD = [0.5] * 4, [0.6] * 4, [0.2] * 4
LENIENT = {"min_users": 4, "canary_users": 0, "popularity_margin": -1, "item_knn_margin": -1}
"""A gate that passes what is worse than both baselines."""
FORCED = Namespace(force=True)


class Crash(BaseException):
    """A process that dies here."""


def run(night):
    """The stage, in this process; returns the ledger of its night."""
    promotion.main(night)
    return decisions(night.root, night.ds)


def again(night):
    """The same night as a later process would see it."""
    return replace(night, token=new_token())


def champion_number(registry):
    champion = registry.champion()
    return champion.number if champion else None


def die_at(monkeypatch, method, first=None, owner=Registry):
    """The process dies when a method is called (with this first argument)."""
    real = getattr(owner, method)

    def dying(self, *arguments):
        if first is None or arguments[0] == first:
            raise Crash
        return real(self, *arguments)

    monkeypatch.setattr(owner, method, dying)


def test_op11_the_first_night_promotes_by_the_absolute_rules(registry, night_of, capsys):
    (row,) = run(night_of(GOOD))
    assert (row["outcome"], row["champion_version"]) == ("promote", None)
    assert row["reason"].startswith("no champion yet, the absolute rules decide")
    assert champion_number(registry) == 1
    assert "promote version 1" in capsys.readouterr().out


def test_op11_the_first_night_holds_a_candidate_no_better_than_popularity(registry, night_of):
    (row,) = run(night_of([0.1] * 4))
    assert row["outcome"] == "hold"
    assert registry.champion() is None


def test_a_held_candidate_is_registered_and_named_in_the_closing_line(registry, night_of, capsys):
    run(night_of([0.1] * 4))
    assert registry.aliased("candidate").number == 1
    line = capsys.readouterr().out.splitlines()[-1]
    assert line.startswith("promotion 2017-10-31: hold version 1: beats_popularity: ndcg@10 minus")
    assert "; beats_item_knn: ndcg@10 minus" in line
    assert line.endswith("champion: none")


def test_op03_the_ledger_names_both_versions_and_the_data(registry, night_of):
    run(night_of(GOOD))
    (row,) = run(night_of(BETTER, DS + timedelta(days=1)))
    assert (row["candidate_version"], row["champion_version"]) == (2, 1)
    assert row["holdout_digest"] == "holdout"
    assert len(row["scorecards_digest"]) == 64
    results = {rule["rule"]: rule["result"] for rule in json.loads(row["rules"])}
    slices = ("new_users", "light_users", "tail_items")
    assert {name for name, result in results.items() if result != "passed"} == set(slices)


def test_op03_the_decision_is_stored_before_an_alias_moves(registry, night_of, monkeypatch):
    night = night_of(GOOD)
    die_at(monkeypatch, "point", "champion")
    with pytest.raises(Crash):
        promotion.main(night)
    (row,) = decisions(night.root, DS)
    assert row["outcome"] == "promote"
    assert registry.champion() is None


def test_op03_no_alias_moves_where_the_decision_cannot_be_stored(registry, night_of, monkeypatch):
    night = night_of(GOOD)
    monkeypatch.setattr(promotion, "record", lambda *_: (_ for _ in ()).throw(Crash))
    with pytest.raises(Crash):
        promotion.main(night)
    assert registry.champion() is None


def test_the_champion_becomes_previous(registry, night_of):
    run(night_of(GOOD))
    run(night_of(BETTER, DS + timedelta(days=1)))
    assert (champion_number(registry), registry.aliased(PREVIOUS).number) == (2, 1)


def test_op09_a_candidate_worse_than_the_champion_is_held(registry, night_of):
    run(night_of(GOOD))
    (row,) = run(night_of(BAD, DS + timedelta(days=1), champion=GOOD))
    assert row["outcome"] == "hold"
    assert row["reason"].startswith("not_worse_than_champion")
    assert champion_number(registry) == 1


def test_op06_a_backfill_never_demotes_a_champion_trained_on_newer_data(registry, night_of):
    run(night_of(GOOD))
    backfill = night_of(BETTER, DS - timedelta(days=9), champion=BAD)
    (row,) = run(backfill)
    assert row["outcome"] == "hold"
    assert row["reason"].startswith("champion_is_newer")
    assert champion_number(registry) == 1


def test_op06_a_backfill_scored_before_the_champion_moved_is_held_too(registry, night_of):
    backfill = night_of(BETTER, DS - timedelta(days=9))
    run(night_of(GOOD))
    (row,) = run(again(backfill))
    assert row["reason"].startswith("champion_is_newer")


def test_op04_scorecards_against_another_champion_are_refused(registry, night_of):
    late = night_of(BETTER, DS + timedelta(days=1))
    run(night_of(GOOD))
    with pytest.raises(RegistryError, match=r"champion none; expected the current champion, 1"):
        promotion.main(again(late))
    assert champion_number(registry) == 1
    assert find(late.root, PROMOTIONS, late.ds) is None


def test_scorecards_of_another_candidate_are_refused(registry, night_of, publish_model):
    night = night_of(GOOD)
    publish_model(get(night.root, ITEMS, DS), seed=99)
    with pytest.raises(RegistryError, match=r"re-run python -m trainer\.evaluation"):
        promotion.main(again(night))


def test_a_decided_night_stays_decided(registry, night_of, capsys):
    night = night_of(GOOD)
    ledger = run(night)
    assert run(again(night)) == ledger
    closing, line = capsys.readouterr().out.splitlines()[-2:]
    assert closing.startswith("promotions 2017-10-31: unchanged since 1 rows in ")
    assert line.startswith("promotion 2017-10-31: unchanged, promote of version 1 stands")


def test_op03_a_held_night_run_again_stays_held(registry, night_of):
    night = night_of([0.1] * 4)
    ledger = run(night)
    assert run(again(night)) == ledger
    assert registry.champion() is None


def test_a_decided_night_stays_decided_after_a_later_promotion(registry, night_of):
    night = night_of(GOOD)
    ledger = run(night)
    run(night_of(BETTER, DS + timedelta(days=1)))
    assert run(again(night)) == ledger
    assert champion_number(registry) == 2


def test_a_champion_scored_against_itself_is_not_promoted_again(
    registry, night_of, publish_scorecards
):
    night = night_of(GOOD)
    ledger = run(night)
    checkpoint = get(night.root, CHECKPOINTS, DS)
    publish_scorecards(checkpoint, GOOD, GOOD, registry.champion().as_input())
    assert run(again(night)) == ledger
    assert registry.aliased(PREVIOUS) is None


def test_a_second_decision_keeps_the_first(registry, night_of):
    held = run(night_of([0.1] * 4, seed=1))
    ledger = run(night_of(GOOD, seed=2))
    assert ledger[0] == held[0]
    assert [row["outcome"] for row in ledger] == ["hold", "promote"]


def test_changed_gate_settings_reopen_a_hold(registry, night_of):
    night = night_of([0.1] * 4)
    run(night)
    night = again(night)
    night.settings = Settings.model_validate({"gate": LENIENT})
    assert [row["outcome"] for row in run(night)] == ["hold", "promote"]


def test_force_decides_again_about_what_the_gate_did_not_pass(registry, night_of):
    night = night_of([0.1] * 4)
    run(night)
    forced = replace(again(night), options=FORCED)
    assert [row["outcome"] for row in run(forced)] == ["hold", "hold"]
    assert len(run(again(night))) == 2


def test_op06_force_does_not_decide_again_once_a_newer_model_serves(registry, night_of):
    night = night_of([0.1] * 4)
    ledger = run(night)
    run(night_of(GOOD, DS + timedelta(days=1)))
    assert run(replace(again(night), options=FORCED)) == ledger


def test_op03_force_does_not_decide_again_about_what_the_gate_passed(registry, night_of):
    night = night_of(GOOD)
    ledger = run(night)
    assert run(replace(again(night), options=FORCED)) == ledger
    operations.hold(registry, "wait")
    kept_back = night_of(BETTER, DS + timedelta(days=1))
    (row,) = run(kept_back)
    assert (row["verdict"], row["outcome"]) == ("promote", "hold")
    assert run(replace(again(kept_back), options=FORCED)) == [row]


def test_a_hold_is_reopened_by_other_settings_than_its_own_only(registry, night_of):
    """Whatever the settings of a later decision about other weights were."""
    run(night_of([0.1] * 4, seed=1))
    other = night_of([0.05] * 4, seed=2)
    other.settings = Settings.model_validate({"gate": LENIENT | {"mode": "dry_run"}})
    ledger = run(other)
    assert run(night_of([0.1] * 4, seed=1)) == ledger
    back = night_of([0.1] * 4, seed=1)
    back.settings = other.settings
    assert [(row["mode"], row["verdict"]) for row in run(back)[2:]] == [("dry_run", "promote")]


def dry(night, canary_users=0):
    """The same night with the gate in a dry run."""
    night = again(night)
    gate = {"min_users": 4, "canary_users": canary_users, "mode": "dry_run"}
    night.settings = Settings.model_validate({"gate": gate})
    return night


def test_a_dry_run_moves_no_alias_but_candidate(registry, night_of, monkeypatch, capsys):
    # What a canary finds is `test_canary`'s.
    monkeypatch.setattr(canary, "check", lambda *_: canary.Facts(2, 1.0, 1.0, 1.0))
    run(night_of(GOOD))
    run(dry(night_of(BETTER, DS + timedelta(days=1)), canary_users=2))
    assert (champion_number(registry), registry.aliased(PREVIOUS)) == (1, None)
    assert registry.aliased("candidate").number == 2
    line = capsys.readouterr().out.splitlines()[-1]
    assert ": hold version 2: dry run, the rules say promote: " in line
    assert line.endswith("champion: version 1 of 2017-10-31")


def test_a_dry_run_is_in_the_ledger_with_what_it_would_have_been(registry, night_of):
    (row,) = run(dry(night_of(GOOD)))
    assert (row["mode"], row["outcome"], row["verdict"]) == ("dry_run", "hold", "promote")


def test_a_dry_run_is_on_the_version_with_what_it_would_have_been(registry, night_of):
    run(dry(night_of(GOOD)))
    (found,) = registry.client.search_model_versions("name = 'penumbra'")
    names = ("mode", "outcome", "verdict")
    assert [found.tags[f"penumbra.{n}"] for n in names] == ["dry_run", "hold", "promote"]


def test_a_dry_run_run_again_still_moves_nothing(registry, night_of):
    night = dry(night_of(GOOD))
    ledger = run(night)
    assert run(again(night)) == ledger
    assert registry.champion() is None


def test_a_dry_run_is_decided_anew_once_the_gate_is_enforced(registry, night_of):
    night = night_of(GOOD)
    run(dry(night))
    assert [row["mode"] for row in run(again(night))] == ["dry_run", "enforce"]
    assert champion_number(registry) == 1


def test_op09_an_inconclusive_candidate_leaves_the_champion(registry, night_of):
    run(night_of(GOOD))
    (row,) = run(night_of([0.9, 0.2, 0.9, 0.2], DS + timedelta(days=1), champion=BETTER))
    assert (row["mode"], row["outcome"], row["verdict"]) == ("enforce", *["inconclusive"] * 2)
    assert champion_number(registry) == 1


def test_op10_a_champion_that_trained_on_the_holdout_stays(registry, night_of, publish_scorecards):
    run(night_of(GOOD))
    night = night_of(BETTER, DS + timedelta(days=1))
    checkpoint, against = get(night.root, CHECKPOINTS, night.ds), registry.champion().as_input()
    publish_scorecards(checkpoint, BETTER, GOOD, against, has_seen=True)
    (row,) = run(again(night))
    assert row["reason"].startswith("champion_unseen_holdout: champions that trained on the holdo")
    assert champion_number(registry) == 1


def test_the_version_carries_the_decision(registry, night_of):
    (row,) = run(night_of(GOOD))
    (found,) = registry.client.search_model_versions("name = 'penumbra'")
    assert found.tags["penumbra.outcome"] == "promote"
    assert found.tags["penumbra.reason"] == row["reason"]


@pytest.mark.parametrize(
    ("method", "alias"),
    [("point", "candidate"), ("tag", None), ("point", "previous"), ("point", "champion")],
)
def test_op07_the_next_start_finishes_what_was_interrupted(
    registry, night_of, monkeypatch, method, alias
):
    run(night_of(GOOD))
    night = night_of(BETTER, DS + timedelta(days=1))
    with monkeypatch.context() as broken, pytest.raises(Crash):
        die_at(broken, method, alias)
        promotion.main(night)
    assert champion_number(registry) == 1
    ledger = run(again(night))
    assert [row["outcome"] for row in ledger] == ["promote"]
    assert (champion_number(registry), registry.aliased(PREVIOUS).number) == (2, 1)
    assert len(registry.client.search_model_versions("name = 'penumbra'")) == 2


def test_a_decision_that_never_began_to_move_stays_unfinished_after_a_later_one(
    registry, night_of, monkeypatch
):
    run(night_of(GOOD))
    interrupted = night_of(BETTER, DS + timedelta(days=1))
    with monkeypatch.context() as broken, pytest.raises(Crash):
        die_at(broken, "append", "promote", Journal)
        promotion.main(interrupted)
    run(night_of(BETTER, DS + timedelta(days=2)))
    run(again(interrupted))
    assert champion_number(registry) == 3


def test_a_move_that_had_begun_is_finished_by_whoever_comes_next(registry, night_of, monkeypatch):
    run(night_of(GOOD))
    interrupted, other = (night_of(BETTER, DS + timedelta(days=n)) for n in (1, 2))
    with monkeypatch.context() as broken, pytest.raises(Crash):
        die_at(broken, "point", "champion")
        promotion.main(interrupted)
    with pytest.raises(RegistryError, match="champion 1; expected the current champion, 2"):
        promotion.main(other)
    assert champion_number(registry) == 2


def test_op05_a_night_run_again_does_not_undo_a_rollback_that_was_released(registry, night_of):
    run(night_of(GOOD))
    second = night_of(BETTER, DS + timedelta(days=1))
    run(second)
    operations.rollback(registry, None, "worse on Sundays")
    run(again(second))
    operations.release(registry, "understood")
    run(again(second))
    assert champion_number(registry) == 1


def test_op05_a_held_registry_trains_registers_and_never_promotes(registry, night_of):
    run(night_of(GOOD))
    operations.hold(registry, "sale of the year")
    (row,) = run(night_of(BETTER, DS + timedelta(days=1)))
    assert row["outcome"] == "hold"
    assert row["reason"].startswith("the registry is held since the hold of 20")
    assert "(sale of the year); the gate passed: " in row["reason"]
    assert (champion_number(registry), registry.aliased("candidate").number) == (1, 2)


def test_op05_the_night_after_a_rollback_promotes_only_once_it_is_released(registry, night_of):
    run(night_of(GOOD))
    run(night_of(BETTER, DS + timedelta(days=1)))
    operations.rollback(registry, None, "worse on Sundays")
    run(night_of(BETTER, DS + timedelta(days=2), champion=GOOD))
    assert champion_number(registry) == 1
    operations.release(registry, "understood")
    run(night_of(BETTER, DS + timedelta(days=3), champion=GOOD))
    assert champion_number(registry) == 4


def test_op05_a_decision_cut_short_before_a_hold_is_not_finished_while_held(
    registry, night_of, monkeypatch
):
    night = night_of(GOOD)
    with monkeypatch.context() as broken, pytest.raises(Crash):
        die_at(broken, "append", "promote", Journal)
        promotion.main(night)
    operations.hold(registry, "wait")
    run(again(night))
    assert registry.champion() is None
    operations.release(registry, "go")
    run(again(night))
    assert champion_number(registry) == 1


CONCURRENT = """
import sys, time
from schemas.command import run
from trainer import operations, promotion
from trainer.journal import Journal
from trainer.promotion import STAGE, main
record = promotion.record
def record_late(*arguments):
    time.sleep(3)
    return record(*arguments)
promotion.record = record_late
print("ready", flush=True)
sys.stdin.readline()
sys.argv[1:] = ["--root", sys.argv[1], "--ds", sys.argv[2]]
run(STAGE, main)
"""


def test_op04_of_two_concurrent_promotions_exactly_one_wins(registry, night_of, monkeypatch):
    """Each takes long between reading the champion and replacing it, so that both overlap."""
    monkeypatch.setenv("PENUMBRA_GATE__MIN_USERS", "4")
    monkeypatch.setenv("PENUMBRA_GATE__CANARY_USERS", "0")
    nights = [night_of(GOOD, trained_until=DS), night_of(GOOD, DS + timedelta(1), trained_until=DS)]
    arguments = [[str(night.root), night.ds.isoformat()] for night in nights]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    processes = [
        subprocess.Popen([sys.executable, "-c", CONCURRENT, *a], text=True, **pipes)
        for a in arguments
    ]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    errors = [process.communicate(timeout=120)[1] for process in processes]
    codes = [process.returncode for process in processes]
    assert sorted(codes) == [0, RegistryError.exit_code], errors
    winner, loser = nights if codes[0] == 0 else reversed(nights)
    (row,) = decisions(winner.root, winner.ds)
    assert row["outcome"] == "promote"
    assert row["candidate_version"] == champion_number(registry)
    assert decisions(loser.root, loser.ds) == []
    assert "the current champion" in errors[codes.index(RegistryError.exit_code)]
