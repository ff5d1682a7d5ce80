import math
from datetime import date

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.errors import DataError
from schemas.scorecards import SCORECARDS
from schemas.settings import GateSettings
from trainer.gate import decide
from trainer.versions import Version

CANDIDATE = Version(2, "weights-2", date(2017, 10, 31), date(2017, 10, 24))
CHAMPION = Version(1, "weights-1", date(2017, 10, 30), date(2017, 10, 23))
BASELINES = {"popularity": [0.1] * 4, "item_knn": [0.2] * 4}
COVERAGE = {"candidate": 0.5, "champion": 0.5}
UNSEEN = {"candidate": False, "champion": False}
SLICES = ["new_users", "light_users", "tail_items"]
SETTINGS = GateSettings(min_users=4, slice_min_users=2, floor=0.05)
NAN = float("nan")


def changed(**changes):
    return SETTINGS.model_copy(update=changes)


def card(model, values, exclude_seen=True, metric="ndcg@10", holdout="holdout"):
    digests = {"candidate": CANDIDATE.weights_sha256, "champion": CHAMPION.weights_sha256}
    return {
        "model": model,
        "model_digest": digests.get(model, ""),
        "exclude_seen": exclude_seen,
        "metric": metric,
        "value": math.fsum(values) / len(values),
        "num_users": len(values),
        "holdout_digest": holdout,
        "user_values": values,
    }


def coverage(model, value):
    return card(model, [value], metric="coverage@10") | {"user_values": []}


def sliced(name, candidate, champion):
    """What both models reached on a slice; None where one was not measured."""
    metric, models = f"ndcg@10/{name}", {"candidate": candidate, "champion": champion}
    return [card(model, values, metric=metric) for model, values in models.items() if values]


def table(*cards):
    return pa.Table.from_pylist(list(cards), schema=SCORECARDS.schema)


def decided(
    candidate,
    champion=None,
    settings=SETTINGS,
    current=None,
    more=(),
    covered=COVERAGE,
    has_seen=UNSEEN,
    **baselines,
):
    models = {"candidate": candidate, **BASELINES, **baselines}
    models |= {"champion": champion} if champion else {}
    cards = [card(model, values) for model, values in models.items() if values]
    cards += [coverage(model, value) for model, value in covered.items() if model in models]
    current = current or (CHAMPION if champion else None)
    return decide(
        table(*cards, *more),
        CANDIDATE,
        current,
        settings,
        exclude_seen=True,
        has_seen_holdout=has_seen,
    )


def with_result(decision, result):
    return [rule.name for rule in decision.rules if rule.result == result]


def failed(decision):
    return with_result(decision, "failed")


def unclear(decision):
    return with_result(decision, "unclear")


def rule_of(decision, name):
    (found,) = (rule for rule in decision.rules if rule.name == name)
    return found


def test_op11_without_a_champion_the_absolute_rules_decide():
    decision = decided([0.3] * 4)
    assert decision.outcome == "promote"
    assert decision.reason == (
        "no champion yet, the absolute rules decide: ndcg@10 is 0.3, must be ≥ 0.05; "
        "ndcg@10 minus popularity's is 0.2, must be > 0"
    )


def test_op11_without_a_champion_no_rule_is_about_one():
    assert [rule.name for rule in decided([0.3] * 4).rules] == [
        "min_users",
        "same_holdout",
        "candidate_unseen_holdout",
        "finite",
        "floor",
        "coverage_floor",
        "beats_popularity",
        "beats_item_knn",
    ]


def test_op11_without_a_champion_a_failing_rule_still_holds():
    assert decided([0.01] * 4).outcome == "hold"


def test_op09_too_few_users_are_inconclusive():
    decision = decided([0.3] * 3)
    assert decision.outcome == "inconclusive"
    assert decision.reason == "min_users: users scored is 3, must be ≥ 4"


def test_op09_a_limit_missed_on_too_few_users_is_no_evidence():
    decision = decided([0.01] * 3)
    assert decision.outcome == "inconclusive"
    assert unclear(decision) == ["min_users", "floor", "beats_popularity", "beats_item_knn"]


def test_op09_a_metric_below_the_floor_holds():
    decision = decided([0.04] * 4, popularity=[0.01] * 4, item_knn=[0.01] * 4)
    assert failed(decision) == ["floor"]
    assert decision.reason == "floor: ndcg@10 is 0.04, must be ≥ 0.05"


def test_op09_a_metric_at_the_floor_passes():
    decision = decided([0.05] * 4, popularity=[0.01] * 4, item_knn=[0.01] * 4)
    assert decision.outcome == "promote"


def test_op09_every_rule_that_failed_is_in_the_reason_with_value_and_limit():
    decision = decided([0.04] * 4, champion=[0.5] * 4)
    assert decision.outcome == "hold"
    assert decision.reason == (
        "floor: ndcg@10 is 0.04, must be ≥ 0.05; "
        "beats_popularity: ndcg@10 minus popularity's is -0.06, must be > 0; "
        "beats_item_knn: ndcg@10 minus item_knn's is -0.16, must be > 0; "
        "not_worse_than_champion: lower end of the 95% interval of the relative gain in ndcg@10 "
        "over champion 1 (-92.00% to -92.00%) is -0.92, must be ≥ -0.05"
    )


@pytest.mark.parametrize("name", ["popularity", "item_knn"])
def test_op09_no_better_than_a_baseline_holds(name):
    decision = decided(
        [0.25] * 4, **{"popularity": [0.1] * 4, "item_knn": [0.1] * 4, name: [0.25] * 4}
    )
    assert failed(decision) == [f"beats_{name}"]


@pytest.mark.parametrize("name", ["popularity", "item_knn"])
def test_op09_better_than_a_baseline_by_no_more_than_the_margin_holds(name):
    limits = changed(**{f"{name}_margin": 0.25})
    assert failed(decided([0.375] * 4, **{name: [0.125] * 4}, settings=limits)) == [f"beats_{name}"]


def test_op09_worse_than_the_champion_holds():
    decision = decided([0.3] * 4, champion=[0.4] * 4)
    assert failed(decision) == ["not_worse_than_champion"]
    assert "(-25.00% to -25.00%) is -0.25, must be ≥ -0.05" in decision.reason


def test_op09_worse_than_the_champion_within_the_margin_promotes():
    assert decided([0.39] * 4, champion=[0.4] * 4).outcome == "promote"


def test_op09_equal_on_average_but_uncertain_is_inconclusive():
    decision = decided([0.9, 0.1, 0.9, 0.1], champion=[0.1, 0.9, 0.1, 0.9])
    assert decision.outcome == "inconclusive"
    assert unclear(decision) == ["not_worse_than_champion"]
    assert decision.reason.startswith("not_worse_than_champion: lower end of the 95% interval")


def test_op09_a_failed_rule_holds_however_unclear_another_is():
    doubtful = decided([0.9, 0.1, 0.9, 0.1], champion=[0.1, 0.9, 0.1, 0.9], item_knn=[0.6] * 4)
    assert (doubtful.outcome, failed(doubtful)) == ("hold", ["beats_item_knn"])
    assert doubtful.reason == "beats_item_knn: ndcg@10 minus item_knn's is -0.1, must be > 0"


def test_op09_the_interval_is_stored_with_the_rule():
    rule = rule_of(decided([0.4] * 4, champion=[0.4] * 4), "not_worse_than_champion")
    assert (rule.value, rule.limit, rule.result) == (0.0, -0.05, "passed")
    assert rule.as_row()["interval"] == [0.0, 0.0]


@pytest.mark.parametrize("name", SLICES)
def test_op09_a_slice_below_the_champions_by_more_than_its_margin_holds(name):
    more = sliced(name, [0.25] * 2, [0.5] * 2)
    decision = decided([0.5] * 4, champion=[0.5] * 4, more=more)
    assert failed(decision) == [name]
    assert decision.reason == (
        f"{name}: relative gain in ndcg@10/{name} of 2 users over champion 1 "
        "(-50.00% to -50.00%) is -0.5, must be ≥ -0.2"
    )


@pytest.mark.parametrize("name", SLICES)
def test_op09_a_slice_at_its_margin_promotes(name):
    limits = changed(**{f"{name}_margin": 0.5})
    more = sliced(name, [0.25] * 2, [0.5] * 2)
    decision = decided([0.5] * 4, champion=[0.5] * 4, more=more, settings=limits)
    assert (decision.outcome, rule_of(decision, name).result) == ("promote", "passed")


def test_op09_a_loss_on_a_slice_that_is_not_proven_is_inconclusive():
    more = sliced("new_users", [0.5, 0.0], [0.25, 0.5])
    decision = decided([0.5] * 4, champion=[0.5] * 4, more=more)
    assert (decision.outcome, unclear(decision)) == ("inconclusive", ["new_users"])


def test_op09_a_slice_of_too_few_users_is_not_judged():
    more = sliced("new_users", [0.25], [0.5])
    decision = decided([0.5] * 4, champion=[0.5] * 4, more=more)
    assert decision.outcome == "promote"
    assert str(rule_of(decision, "new_users")).endswith("is -0.5, must be ≥ -0.2; not judged")


def test_op11_slices_that_nobody_is_in_are_recorded_as_not_judged():
    decision = decided([0.5] * 4, champion=[0.5] * 4)
    assert decision.outcome == "promote"
    assert with_result(decision, "not judged") == SLICES


@pytest.mark.parametrize("missing", ["candidate", "champion"])
def test_op11_a_slice_that_one_model_lacks_is_inconclusive(missing):
    values = {"candidate": [0.5] * 2, "champion": [0.5] * 2, missing: None}
    more = sliced("tail_items", **values)
    decision = decided([0.5] * 4, champion=[0.5] * 4, more=more)
    assert (decision.outcome, unclear(decision)) == ("inconclusive", ["tail_items"])


def test_op10_a_slice_of_enough_users_for_one_model_only_is_inconclusive():
    more = sliced("tail_items", [0.5], [0.5] * 2)
    decision = decided([0.5] * 4, champion=[0.5] * 4, more=more)
    assert (decision.outcome, unclear(decision)) == ("inconclusive", ["tail_items"])


def test_op09_coverage_that_drops_too_far_holds():
    covered = {"candidate": 0.25, "champion": 0.5}
    decision = decided([0.5] * 4, champion=[0.5] * 4, covered=covered)
    assert failed(decision) == ["coverage"]
    assert decision.reason == (
        "coverage: relative gain in coverage@10 over champion 1 is -0.5, must be ≥ -0.25"
    )


def test_op09_coverage_that_drops_by_the_largest_allowed_share_promotes():
    covered = {"candidate": 0.375, "champion": 0.5}
    assert decided([0.5] * 4, champion=[0.5] * 4, covered=covered).outcome == "promote"


def test_op09_coverage_below_its_floor_holds():
    decision = decided([0.5] * 4, settings=changed(coverage_floor=0.75))
    assert failed(decision) == ["coverage_floor"]


@pytest.mark.parametrize(
    ("missing", "rules"),
    [("candidate", ["coverage_floor", "coverage"]), ("champion", ["coverage"])],
)
def test_op11_missing_coverage_is_inconclusive(missing, rules):
    covered = {model: 0.5 for model in COVERAGE if model != missing}
    decision = decided([0.5] * 4, champion=[0.5] * 4, covered=covered)
    assert (decision.outcome, unclear(decision)) == ("inconclusive", rules)


def test_op06_a_champion_trained_on_newer_data_holds():
    newer = Version(1, "weights-1", date(2017, 11, 1), date(2017, 10, 25))
    decision = decided([0.9] * 4, champion=[0.1] * 4, current=newer)
    assert failed(decision) == ["champion_is_newer"]
    assert decision.reason.endswith("reach beyond champion 1's is -1, must be ≥ 0")


def test_op06_a_champion_trained_on_the_same_data_may_be_replaced():
    same = Version(1, "weights-1", date(2017, 10, 31), CANDIDATE.trained_until)
    assert decided([0.9] * 4, champion=[0.1] * 4, current=same).outcome == "promote"


def test_op06_newer_data_hold_whatever_was_measured():
    newer = Version(1, "weights-1", date(2017, 11, 1), date(2017, 10, 25))
    assert decided([0.9] * 3, current=newer).outcome == "hold"


def test_op10_a_champion_that_was_not_scored_is_inconclusive():
    decision = decided([0.9] * 4, current=CHAMPION)
    assert decision.outcome == "inconclusive"
    assert unclear(decision) == ["champion_is_scored", "not_worse_than_champion", "coverage"]


def test_op10_a_champion_scored_on_other_users_is_inconclusive():
    decision = decided([0.9] * 4, champion=[0.1] * 3)
    assert (decision.outcome, unclear(decision)) == ("inconclusive", ["not_worse_than_champion"])


def test_op10_scores_from_two_holdouts_are_inconclusive():
    cards = [card("candidate", [0.9] * 4), card("item_knn", [0.1] * 4), coverage("candidate", 0.5)]
    cards += [card("popularity", [0.1] * 4, holdout="another")]
    decision = decide(
        table(*cards), CANDIDATE, None, SETTINGS, exclude_seen=True, has_seen_holdout=UNSEEN
    )
    assert (decision.outcome, unclear(decision)) == ("inconclusive", ["same_holdout"])


@pytest.mark.parametrize("model", ["candidate", "champion"])
def test_op10_a_model_that_trained_on_the_holdout_is_inconclusive(model):
    decision = decided([0.9] * 4, champion=[0.5] * 4, has_seen=UNSEEN | {model: True})
    assert decision.outcome == "inconclusive"
    assert decision.reason == (
        f"{model}_unseen_holdout: {model}s that trained on the holdout is 1, must be = 0"
    )


def test_op10_losing_to_a_champion_that_trained_on_the_holdout_is_no_evidence():
    decision = decided([0.3] * 4, champion=[0.9] * 4, has_seen=UNSEEN | {"champion": True})
    assert decision.outcome == "inconclusive"
    assert unclear(decision) == ["champion_unseen_holdout", "not_worse_than_champion"]


def test_op10_a_floor_is_judged_though_the_champion_trained_on_the_holdout():
    decision = decided([0.01] * 4, champion=[0.9] * 4, has_seen=UNSEEN | {"champion": True})
    assert failed(decision) == ["floor", "beats_popularity", "beats_item_knn"]


@pytest.mark.parametrize("has_seen", [{"candidate": None, "champion": None}, {}])
def test_op10_where_nobody_can_say_who_saw_the_holdout_it_is_not_judged(has_seen):
    decision = decided([0.9] * 4, champion=[0.5] * 4, has_seen=has_seen)
    assert decision.outcome == "promote"
    assert with_result(decision, "not judged")[:2] == [
        "candidate_unseen_holdout",
        "champion_unseen_holdout",
    ]


@pytest.mark.parametrize("name", ["popularity", "item_knn"])
def test_op11_a_missing_baseline_is_inconclusive(name):
    decision = decided([0.9] * 4, **{name: None})
    assert decision.outcome == "inconclusive"
    assert decision.reason == f"beats_{name}: ndcg@10 minus {name}'s is missing, must be > 0"


@pytest.mark.parametrize("broken", [NAN, float("inf")])
def test_op11_a_metric_that_is_not_a_number_holds(broken):
    decision = decided([0.9, 0.9, 0.9, broken], champion=[0.1] * 4)
    assert decision.outcome == "hold"
    assert decision.reason == "finite: values of ndcg@10 that are not finite is 2, must be = 0"
    assert rule_of(decision, "floor").as_row()["value"] is None


def test_op11_a_champion_whose_metric_is_not_a_number_is_inconclusive():
    decision = decided([0.9] * 4, champion=[0.1, 0.1, 0.1, NAN])
    assert (decision.outcome, unclear(decision)) == ("inconclusive", ["not_worse_than_champion"])


def test_op11_a_baseline_whose_metric_is_not_a_number_is_inconclusive():
    decision = decided([0.9] * 4, item_knn=[0.1, 0.1, 0.1, NAN])
    assert (decision.outcome, unclear(decision)) == ("inconclusive", ["beats_item_knn"])


def test_in_a_dry_run_what_would_be_promoted_is_held():
    decision = decided([0.3] * 4, settings=changed(mode="dry_run"))
    assert (decision.outcome, decision.verdict) == ("hold", "promote")
    assert decision.reason.startswith("dry run, the rules say promote: no champion yet, the abs")


@pytest.mark.parametrize(("values", "verdict"), [([0.01] * 4, "hold"), ([0.3], "inconclusive")])
def test_in_a_dry_run_any_other_outcome_is_what_it_would_have_been(values, verdict):
    decision = decided(values, settings=changed(mode="dry_run"))
    assert (decision.outcome, decision.verdict) == (verdict, verdict)
    assert decision.reason.startswith(f"dry run, the rules say {verdict}: ")


def test_the_holdout_of_the_settings_decides():
    cards = [card("candidate", [0.9] * 4), card("candidate", [0.0] * 4, exclude_seen=False)]
    cards += [card(name, [0.1] * 4, seen) for name in BASELINES for seen in (True, False)]
    cards += [coverage("candidate", 0.5) | {"exclude_seen": seen} for seen in (True, False)]
    outcomes = [
        decide(
            table(*cards), CANDIDATE, None, SETTINGS, exclude_seen=seen, has_seen_holdout=UNSEEN
        ).outcome
        for seen in (True, False)
    ]
    assert outcomes == ["promote", "hold"]


def test_the_metric_of_the_settings_decides():
    more = [card(name, [0.1] * 4, metric="recall@10") for name in BASELINES]
    more += [card("candidate", [0.0] * 4, metric="recall@10")]
    outcomes = [
        decided([0.9] * 4, more=more, settings=changed(metric=metric)).outcome
        for metric in ("ndcg@10", "recall@10")
    ]
    assert outcomes == ["promote", "hold"]


def test_a_candidate_that_was_not_scored_is_an_error():
    other = Version(3, "weights-3", CANDIDATE.ds, CANDIDATE.trained_until)
    cards = table(card("candidate", [0.9]))
    with pytest.raises(DataError, match=r"no ndcg@10 of candidate weights-3"):
        decide(cards, other, None, SETTINGS, exclude_seen=True, has_seen_holdout=UNSEEN)


def test_a_champion_that_never_finds_anything_is_no_obstacle():
    assert decided([0.3] * 4, champion=[0.0] * 4).outcome == "promote"


VALUES = st.sampled_from([0.0, 0.125, 0.25, 0.5, 1.0])
QUICK = changed(num_resamples=100)


@given(st.lists(st.tuples(VALUES, VALUES), min_size=2, max_size=8), st.randoms())
@settings(max_examples=50, deadline=None)
def test_the_decision_does_not_depend_on_the_order_of_users(pairs, random):
    shuffled = random.sample(pairs, len(pairs))
    decisions = [
        decided(candidate, champion, QUICK, more=sliced("new_users", candidate, champion))
        for candidate, champion in (
            map(list, zip(*users, strict=True)) for users in (pairs, shuffled)
        )
    ]
    assert decisions[0] == decisions[1]


SEEN = st.fixed_dictionaries({model: st.sampled_from([True, False, None]) for model in COVERAGE})
LIST = st.just([0.5] * 4) | st.lists(st.sampled_from([0.0, 0.5, NAN]), min_size=1, max_size=5)


@given(LIST, LIST, SEEN, st.sampled_from([0.1, 0.5]), st.none() | st.just([0.1] * 4))
@settings(max_examples=100, deadline=None)
def test_op03_only_what_passed_every_rule_that_applies_is_promoted(
    candidate, champion, has_seen, covered, popularity
):
    decision = decided(
        candidate,
        champion,
        QUICK,
        covered={"candidate": covered, "champion": 0.5},
        has_seen=has_seen,
        popularity=popularity,
    )
    results = {rule.result for rule in decision.rules}
    assert (decision.outcome == "promote") == (results <= {"passed", "not judged"})
    assert (decision.outcome == "hold") == ("failed" in results)
