from datetime import date

import numpy as np
import pyarrow as pa

from schemas.scorecards import SCORECARDS
from schemas.settings import GateSettings
from trainer.evidence import Evidence, paired_interval
from trainer.versions import Version

SETTINGS = GateSettings()
CANDIDATE = Version(2, "weights-2", date(2017, 10, 31), date(2017, 10, 24))
CHAMPION = Version(1, "weights-1", date(2017, 10, 30), date(2017, 10, 23))


def card(model, digest, values, **changed):
    row = {"model": model, "model_digest": digest, "exclude_seen": True, "metric": "ndcg@10"}
    row |= {"value": float(np.mean(values)), "num_users": len(values), "user_values": values}
    return row | {"holdout_digest": "holdout"} | changed


def evidence(*cards, champion=CHAMPION):
    table = pa.Table.from_pylist(list(cards), schema=SCORECARDS.schema)
    metrics = ["ndcg@10", "coverage@10"]
    return Evidence(table, metrics, CANDIDATE, champion, exclude_seen=True)


def test_the_interval_is_that_of_the_mean():
    """Against the normal approximation, which 400 users make good to a few thousandths."""
    generator = np.random.default_rng(5)
    champion = generator.random(400)
    candidate = champion + generator.normal(0.02, 0.1, 400)
    low, high = paired_interval(candidate, champion, SETTINGS)
    gains = candidate - champion
    expected = gains.mean() + np.array([-1.96, 1.96]) * gains.std() / 20
    np.testing.assert_allclose([low, high], expected / champion.mean(), atol=2e-3)


def test_the_interval_of_a_large_gain_knows_that_the_champions_mean_is_measured_too():
    """Against the delta method for a ratio of means (Casella & Berger 2002, 5.5.4)."""
    generator = np.random.default_rng(6)
    candidate, champion = generator.random(2_000) < 0.3, generator.random(2_000) < 0.1
    low, high = paired_interval(candidate.astype(float), champion.astype(float), SETTINGS)
    ratio = candidate.mean() / champion.mean()
    error = (candidate - ratio * champion).std() / champion.mean() / np.sqrt(2_000)
    np.testing.assert_allclose([low, high], ratio - 1 + np.array([-1.96, 1.96]) * error, rtol=0.08)


def test_a_resample_without_any_of_the_champions_value_leaves_the_interval_finite():
    candidate, champion = np.array([0.5, 0.5, 0.0]), np.array([1.0, 0.0, 0.0])
    low, high = paired_interval(candidate, champion, SETTINGS)
    assert (low, high) == (-1.5, 1.5)


def test_the_interval_is_a_function_of_the_seed():
    candidate, champion = np.array([0.1, 0.9, 0.4]), np.array([0.2, 0.5, 0.6])
    again = paired_interval(candidate, champion, SETTINGS)
    assert paired_interval(candidate, champion, SETTINGS) == again
    other = SETTINGS.model_copy(update={"seed": 3, "num_resamples": 101})
    assert paired_interval(candidate, champion, other) != again


def test_the_interval_does_not_depend_on_the_block_size(monkeypatch):
    candidate, champion = np.array([0.1, 0.9, 0.4]), np.array([0.2, 0.5, 0.6])
    whole = paired_interval(candidate, champion, SETTINGS)
    assert whole[0] < whole[1]
    monkeypatch.setattr("trainer.evidence.DRAWS_AT_ONCE", 30)
    assert paired_interval(candidate, champion, SETTINGS) == whole


def test_the_gain_does_not_depend_on_the_order_of_users():
    candidate, champion = [0.125, 0.5, 0.25, 0.75], [0.25, 0.25, 0.5, 0.125]
    gains = [
        evidence(
            card("candidate", "weights-2", [candidate[n] for n in order]),
            card("champion", "weights-1", [champion[n] for n in order]),
        ).paired_gain("ndcg@10", SETTINGS)
        for order in ([0, 1, 2, 3], [2, 0, 3, 1])
    ]
    assert gains[0] == gains[1]
    assert gains[0].value == 0.5 / 1.125


def test_op10_scorecards_of_other_weights_are_no_evidence():
    cards = [card("candidate", "weights-9", [0.5]), card("champion", "weights-9", [0.5])]
    assert evidence(*cards).cards == {}


def test_op10_a_champion_without_a_name_in_the_registry_is_no_evidence():
    scored = card("champion", "weights-1", [0.5])
    assert evidence(scored, champion=None).cards == {}


def test_a_relative_gain_is_a_share_of_the_champions_value():
    cards = [("candidate", "weights-2", 0.375), ("champion", "weights-1", 0.5)]
    rows = [card(m, d, [v], metric="coverage@10", user_values=[]) for m, d, v in cards]
    assert evidence(*rows).relative_gain("coverage@10") == -0.25


def test_a_champion_that_covers_nothing_makes_it_the_plain_gain():
    cards = [("candidate", "weights-2", 0.375), ("champion", "weights-1", 0.0)]
    rows = [card(m, d, [v], metric="coverage@10", user_values=[]) for m, d, v in cards]
    assert evidence(*rows).relative_gain("coverage@10") == 0.375
