import json

import pytest

from trainer.rules import Rule, named, rules_json


def rule(value, **changed):
    return Rule(
        **{"name": "gain", "about": "gain", "sign": "≥", "limit": -0.25} | changed, value=value
    )


@pytest.mark.parametrize(
    ("sign", "value", "result"),
    [
        ("≥", -0.25, "passed"),
        ("≥", -0.5, "failed"),
        (">", -0.25, "failed"),
        (">", 0.0, "passed"),
        ("=", -0.25, "passed"),
        ("=", 0.0, "failed"),
    ],
)
def test_a_value_is_compared_with_the_limit(sign, value, result):
    assert rule(value, sign=sign).result == result


@pytest.mark.parametrize("value", [None, float("nan"), float("inf"), float("-inf")])
def test_op11_a_value_that_is_missing_or_not_a_number_is_unclear(value):
    assert rule(value).result == "unclear"


def test_op09_a_loss_is_unclear_while_its_interval_reaches_zero():
    assert rule(-0.5, interval=(-1.0, 0.0)).result == "unclear"


def test_op09_a_loss_whose_interval_lies_below_zero_fails():
    assert rule(-0.5, interval=(-1.0, -0.125)).result == "failed"


def test_a_rule_can_be_unclear_rather_than_failed_beyond_its_limit():
    assert rule(-0.5, interval=(-1.0, -0.125), if_missed="unclear").result == "unclear"


@pytest.mark.parametrize("value", [0.0, -0.5, None])
def test_op09_a_rule_that_does_not_apply_is_not_judged_whatever_its_value(value):
    assert rule(value, is_judged=False).result == "not judged"


def test_the_ledger_keeps_value_limit_result_and_words():
    (row,) = json.loads(rules_json([rule(-0.5, interval=(-1.0, -0.125))]))
    assert row == {
        "rule": "gain",
        "result": "failed",
        "value": -0.5,
        "limit": -0.25,
        "about": "gain is -0.5, must be ≥ -0.25",
        "interval": [-1.0, -0.125],
    }


def test_op11_the_ledger_keeps_what_is_not_a_number_as_null():
    (row,) = json.loads(rules_json([rule(float("nan"))]))
    assert row["value"] is None


def test_every_rule_with_a_result_is_named():
    rules = [rule(-0.5), rule(0.0, name="other"), rule(-1.0, name="third")]
    assert named(rules, "failed") == (
        "gain: gain is -0.5, must be ≥ -0.25; third: gain is -1, must be ≥ -0.25"
    )
