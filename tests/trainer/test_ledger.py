from datetime import date, timedelta

import pytest

from schemas.errors import CorruptPartitionError
from trainer import promotion
from trainer.ledger import decisions, last_promotion, opponent, served

DS = date(2017, 10, 31)
GOOD, BETTER, BAD = [0.5] * 4, [0.6] * 4, [0.2] * 4


def run(night):
    promotion.main(night)
    return decisions(night.root, night.ds)


def test_a_night_without_decisions_has_an_empty_ledger(tmp_path):
    assert decisions(tmp_path, DS) == []
    assert last_promotion(tmp_path) is None


@pytest.mark.parametrize("name", ["part-00000.parquet", "CURRENT"])
def test_op08_nobody_is_told_to_make_decisions_again_that_were_damaged(registry, night_of, name):
    run(night_of(GOOD))
    (file,) = (registry.root / "tables" / "promotions").rglob(name)
    file.write_bytes(b"")
    with pytest.raises(CorruptPartitionError) as error:
        decisions(registry.root, DS)
    assert error.value.fix == "restore the file"


def test_a_new_candidate_meets_the_champion(registry, night_of):
    run(night_of(GOOD))
    assert opponent(registry, DS + timedelta(days=1), "new", DS).number == 1


def test_a_decided_night_meets_the_champion_of_its_decision_again(registry, night_of):
    night = night_of(GOOD)
    (row,) = run(night)
    run(night_of(BETTER, DS + timedelta(days=1)))
    assert opponent(registry, DS, row["candidate_digest"], DS) is None


def test_a_held_candidate_meets_a_new_champion_that_is_not_newer(registry, night_of):
    (row,) = run(night_of([0.1] * 4, seed=1))
    run(night_of(GOOD, seed=2))
    assert opponent(registry, DS, row["candidate_digest"], DS).number == 2


def test_a_night_nothing_was_decided_on_is_served_by_the_champion(registry, night_of):
    assert served(registry, DS) is None
    run(night_of(GOOD))
    assert served(registry, DS - timedelta(days=1)).number == 1


def test_the_last_promotion_is_the_newest_decision_to_promote(registry, night_of):
    run(night_of(GOOD))
    run(night_of(BAD, DS + timedelta(days=1), champion=GOOD))
    assert last_promotion(registry.root) == decisions(registry.root, DS)[0]


def test_what_served_on_a_night_is_what_its_decision_left_in_place(registry, night_of):
    run(night_of(GOOD))
    run(night_of(BAD, DS + timedelta(days=1), champion=GOOD))
    run(night_of(BETTER, DS + timedelta(days=2)))
    days = [DS + timedelta(days=n) for n in range(4)]
    assert [served(registry, day).number for day in days] == [1, 1, 3, 3]


def test_an_overtaken_night_that_is_decided_on_again_keeps_its_champion_and_what_it_served(
    registry, night_of
):
    run(night_of(GOOD))
    run(night_of(BETTER, DS + timedelta(days=1)))
    first, repeated = run(night_of(BAD))
    assert (first["champion_version"], repeated["champion_version"]) == (None, 2)
    assert opponent(registry, DS, first["candidate_digest"], DS) is None
    assert served(registry, DS).number == 1
