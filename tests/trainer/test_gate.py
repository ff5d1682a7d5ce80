import json
from datetime import date

import numpy as np
import pyarrow as pa
import pytest

from schemas.errors import DataError
from schemas.scorecards import SCORECARDS
from schemas.settings import GateSettings
from trainer.gate import decide, paired_interval
from trainer.versions import Version

CANDIDATE = Version(2, "weights-2", date(2017, 10, 31), date(2017, 10, 24))
CHAMPION = Version(1, "weights-1", date(2017, 10, 30), date(2017, 10, 23))
BASELINES = {"popularity": [0.1] * 4, "item_knn": [0.2] * 4}
SETTINGS = GateSettings(min_users=4, floor=0.05)


def card(model, values, exclude_seen=True, metric="ndcg@10", holdout="holdout"):
    digests = {"candidate": CANDIDATE.weights_sha256, "champion": CHAMPION.weights_sha256}
    return {
        "model": model,
        "model_digest": digests.get(model, ""),
        "exclude_seen": exclude_seen,
        "metric": metric,
        "value": float(np.mean(values)),
        "num_users": len(values),
        "holdout_digest": holdout,
        "user_values": values,
    }


def table(*cards):
    return pa.Table.from_pylist(list(cards), schema=SCORECARDS.schema)


def decided(candidate, champion=None, settings=SETTINGS, current=None, **baselines):
    models = {"candidate": candidate, **BASELINES, **baselines}
    models |= {"champion": champion} if champion else {}
    cards = table(*(card(model, values) for model, values in models.items() if values))
    current = current or (CHAMPION if champion else None)
    return decide(cards, CANDIDATE, current, settings, exclude_seen=True)


def failed(decision):
    return [rule.name for rule in decision.rules if not rule.passed]


def test_op11_without_a_champion_the_absolute_rules_decide():
    decision = decided([0.3] * 4)
    assert decision.outcome == "promote"
    assert decision.reason == (
        "no champion yet, the absolute rules decide: ndcg@10 is 0.3, must be ≥ 0.05; "
        "ndcg@10 minus popularity's is 0.2, must be > 0"
    )


def test_op11_without_a_champion_a_failing_rule_still_holds():
    assert decided([0.01] * 4).outcome == "hold"


def test_op09_too_few_users_hold():
    decision = decided([0.3] * 3)
    assert decision.outcome == "hold"
    assert decision.reason == "min_users: users scored is 3, must be ≥ 4"


def test_op09_a_metric_below_the_floor_holds():
    decision = decided([0.04] * 4, popularity=[0.01] * 4)
    assert failed(decision) == ["floor"]
    assert decision.reason == "floor: ndcg@10 is 0.04, must be ≥ 0.05"


def test_op09_a_metric_at_the_floor_passes():
    assert decided([0.05] * 4, popularity=[0.01] * 4).outcome == "promote"


def test_op09_no_better_than_popularity_holds():
    assert failed(decided([0.1] * 4)) == ["beats_popularity"]


def test_op09_better_than_popularity_by_no_more_than_the_margin_holds():
    settings = SETTINGS.model_copy(update={"popularity_margin": 0.25})
    assert failed(decided([0.375] * 4, popularity=[0.125] * 4, settings=settings)) == [
        "beats_popularity"
    ]


def test_op09_worse_than_the_champion_holds():
    decision = decided([0.3] * 4, champion=[0.4] * 4)
    assert failed(decision) == ["not_worse_than_champion"]
    assert "(-25.00% to -25.00%) is -0.25, must be ≥ -0.05" in decision.reason


def test_op09_worse_than_the_champion_within_the_margin_promotes():
    assert decided([0.39] * 4, champion=[0.4] * 4).outcome == "promote"


def test_op09_equal_on_average_but_uncertain_holds():
    decision = decided([0.9, 0.1, 0.9, 0.1], champion=[0.1, 0.9, 0.1, 0.9])
    assert failed(decision) == ["not_worse_than_champion"]


def test_op09_the_interval_is_stored_with_the_rule():
    decision = decided([0.4] * 4, champion=[0.4] * 4)
    rule = json.loads(decision.rules_json())[-1]
    assert rule["rule"] == "not_worse_than_champion"
    assert (rule["value"], rule["limit"], rule["passed"]) == (0.0, -0.05, True)
    assert rule["interval"] == [0.0, 0.0]


def test_op06_a_champion_trained_on_newer_data_holds():
    newer = Version(1, "weights-1", date(2017, 11, 1), date(2017, 10, 25))
    decision = decided([0.9] * 4, champion=[0.1] * 4, current=newer)
    assert failed(decision) == ["champion_is_newer"]
    assert decision.reason.endswith("reach beyond champion 1's is -1, must be ≥ 0")


def test_op06_a_champion_trained_on_the_same_data_may_be_replaced():
    same = Version(1, "weights-1", date(2017, 10, 31), CANDIDATE.trained_until)
    assert decided([0.9] * 4, champion=[0.1] * 4, current=same).outcome == "promote"


def test_op10_a_champion_that_was_not_scored_holds():
    decision = decided([0.9] * 4, current=CHAMPION)
    assert failed(decision) == ["champion_is_scored", "not_worse_than_champion"]


def test_op10_a_champion_scored_on_other_users_holds():
    assert failed(decided([0.9] * 4, champion=[0.1] * 3)) == ["not_worse_than_champion"]


def test_op10_scores_from_two_holdouts_hold():
    cards = [card("candidate", [0.9] * 4), card("item_knn", [0.1] * 4)]
    cards += [card("popularity", [0.1] * 4, holdout="another")]
    decision = decide(table(*cards), CANDIDATE, None, SETTINGS, exclude_seen=True)
    assert failed(decision) == ["same_holdout"]


@pytest.mark.parametrize("name", ["popularity", "item_knn"])
def test_op11_a_missing_baseline_holds(name):
    decision = decided([0.9] * 4, **{name: None})
    assert decision.outcome == "hold"
    assert decision.reason.startswith("baselines: baselines without a scorecard")


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_op11_a_metric_that_is_not_a_number_holds(broken):
    decision = decided([0.9, 0.9, 0.9, broken], champion=[0.1] * 4)
    assert decision.outcome == "hold"
    assert decision.reason == "finite: values of ndcg@10 that are not finite is 2, must be = 0"
    assert [rule["value"] for rule in json.loads(decision.rules_json())][4] is None


def test_the_holdout_of_the_settings_decides():
    cards = [card("candidate", [0.9] * 4), card("candidate", [0.0] * 4, exclude_seen=False)]
    cards += [card(name, [0.1] * 4, seen) for name in BASELINES for seen in (True, False)]
    outcomes = [
        decide(table(*cards), CANDIDATE, None, SETTINGS, exclude_seen=seen).outcome
        for seen in (True, False)
    ]
    assert outcomes == ["promote", "hold"]


def test_the_metric_of_the_settings_decides():
    cards = [card("candidate", [0.9] * 4), card("candidate", [0.0] * 4, metric="recall@10")]
    cards += [card(n, [0.1] * 4, metric=m) for n in BASELINES for m in ("ndcg@10", "recall@10")]
    settings = SETTINGS.model_copy(update={"metric": "recall@10"})
    assert decide(table(*cards), CANDIDATE, None, settings, exclude_seen=True).outcome == "hold"


def test_a_candidate_that_was_not_scored_is_an_error():
    other = Version(3, "weights-3", CANDIDATE.ds, CANDIDATE.trained_until)
    with pytest.raises(DataError, match=r"no ndcg@10 of candidate weights-3"):
        decide(table(card("candidate", [0.9])), other, None, SETTINGS, exclude_seen=True)


def test_the_interval_is_that_of_the_mean():
    """Against the normal approximation, which 400 users make good to a few thousandths."""
    generator = np.random.default_rng(5)
    champion = generator.random(400)
    candidate = champion + generator.normal(0.02, 0.1, 400)
    low, high = paired_interval(candidate, champion, SETTINGS)
    gains = candidate - champion
    expected = gains.mean() + np.array([-1.96, 1.96]) * gains.std() / 20
    np.testing.assert_allclose([low, high], expected / champion.mean(), atol=2e-3)


def test_the_interval_is_a_function_of_the_seed():
    candidate, champion = np.array([0.1, 0.9, 0.4]), np.array([0.2, 0.5, 0.6])
    again = paired_interval(candidate, champion, SETTINGS)
    assert paired_interval(candidate, champion, SETTINGS) == again
    other = SETTINGS.model_copy(update={"seed": 3, "num_resamples": 101})
    assert paired_interval(candidate, champion, other) != again


def test_the_interval_does_not_depend_on_the_block_size(monkeypatch):
    candidate, champion = np.array([0.1, 0.9, 0.4]), np.array([0.2, 0.5, 0.6])
    whole = paired_interval(candidate, champion, SETTINGS)
    monkeypatch.setattr("trainer.gate.DRAWS_AT_ONCE", 30)
    assert paired_interval(candidate, champion, SETTINGS) == whole


def test_a_champion_that_never_finds_anything_is_no_obstacle():
    assert decided([0.3] * 4, champion=[0.0] * 4).outcome == "promote"
