from math import log
from typing import get_args

import numpy as np
import pytest
from sklearn.metrics.pairwise import cosine_similarity

from jobs.normalisers import (
    NORMALISERS,
    ItemWeights,
    bm25,
    cosine,
    jaccard,
    lift,
    pmi,
    raw,
    shrink,
)
from schemas.settings import ItemGraphSettings

# Of 20 users, 4 have item 1, 9 item 2, 2 item 4; 3 have items 1 and 2. Item 3 is too light.
ITEM, NEIGHBOUR = np.array([1, 1], np.int32), np.array([2, 3], np.int32)
PAIR_WEIGHT = np.array([3.0, 1.0])
USERS_OF = np.array([0.0, 4.0, 9.0, 0.0, 2.0])
WEIGHTS = ItemWeights(own=USERS_OF, frequency=USERS_OF, num_users=20)

COUNTS = np.random.default_rng(3).poisson(0.7, (40, 7)).astype(float)
LEFT, RIGHT = (ends.astype(np.int32) for ends in np.triu_indices(7, k=1))
COUNTED = ItemWeights(own=(COUNTS**2).sum(axis=0), frequency=COUNTS.sum(axis=0), num_users=40)

every_normaliser = pytest.mark.parametrize("normaliser", NORMALISERS.values(), ids=NORMALISERS)


def between(normaliser, item, neighbour, pair_weight, weights=WEIGHTS):
    ends = (np.array([end], np.int32) for end in (item, neighbour))
    return normaliser(np.array([float(pair_weight)]), *ends, weights).item()


def test_raw_keeps_the_pair_weight():
    assert raw(PAIR_WEIGHT, ITEM, NEIGHBOUR, WEIGHTS).tolist() == [3.0, 1.0]


def test_cosine_divides_by_the_geometric_mean_of_own_weights():
    assert cosine(PAIR_WEIGHT, ITEM, NEIGHBOUR, WEIGHTS)[0] == pytest.approx(3 / 6)


def test_cosine_is_at_most_1_though_a_pair_weight_is_rounded_up():
    assert between(cosine, 1, 1, 4) == 1
    assert between(cosine, 1, 1, 5) == 1


def test_cosine_of_whole_histories_is_the_cosine_of_count_columns():
    found = cosine((COUNTS.T @ COUNTS)[LEFT, RIGHT], LEFT, RIGHT, COUNTED)
    np.testing.assert_allclose(found, cosine_similarity(COUNTS.T)[LEFT, RIGHT])


def test_jaccard_is_users_of_both_over_users_of_either():
    assert between(jaccard, 1, 2, 3) == pytest.approx(3 / (4 + 9 - 3))


def test_jaccard_of_equal_items_is_1_though_a_pair_weight_is_rounded_up():
    assert between(jaccard, 1, 1, 4) == 1
    assert between(jaccard, 1, 1, 5) == 1


def test_lift_is_observed_over_expected_pairs():
    assert between(lift, 1, 2, 3) == pytest.approx(3 / (20 * 4 / 20 * 9 / 20))


def test_lift_takes_frequencies_and_not_own_weights():
    twice = WEIGHTS._replace(frequency=2 * USERS_OF)
    assert between(lift, 1, 2, 3, twice) == between(lift, 1, 2, 3) / 4


def test_pmi_is_the_logarithm_of_lift():
    assert between(pmi, 1, 2, 3) == pytest.approx(log(5 / 3))


@pytest.mark.parametrize("pair_weight", [1.8, 1.0])
def test_pmi_of_pairs_no_more_frequent_than_chance_is_0(pair_weight):
    assert between(pmi, 1, 2, pair_weight) == 0


def test_bm25_weighs_rare_neighbours_and_saturates_sooner_in_light_items():
    # m is 4, 9 and 2 where it is not 0, so 5 on average: item 1 has 4/5 of a mean size.
    idf = log(1 + (20 - 9 + 0.5) / (9 + 0.5))
    assert between(bm25, 1, 2, 3) == pytest.approx(
        idf * 3 * 2.2 / (3 + 1.2 * (0.25 + 0.75 * 4 / 5))
    )


def test_bm25_leads_back_with_the_other_end_as_the_document():
    idf = log(1 + (20 - 4 + 0.5) / (4 + 0.5))
    assert between(bm25, 2, 1, 3) == pytest.approx(
        idf * 3 * 2.2 / (3 + 1.2 * (0.25 + 0.75 * 9 / 5))
    )


def test_bm25_counts_a_neighbour_no_more_often_than_there_are_users():
    often = WEIGHTS._replace(frequency=np.array([0.0, 4.0, 50.0, 0.0, 2.0]))
    idf = log(1 + 0.5 / 20.5)
    assert between(bm25, 1, 2, 3, often) == pytest.approx(idf * 3 * 2.2 / (3 + 1.2 * 0.85))


def test_bm25_where_no_item_weighs_is_0():
    nothing = ItemWeights(own=np.zeros(5), frequency=np.zeros(5), num_users=20)
    assert between(bm25, 1, 2, 3, nothing) == 0


@pytest.mark.parametrize("normaliser", [cosine, jaccard, lift, pmi])
@pytest.mark.parametrize(("item", "neighbour"), [(1, 3), (3, 1), (3, 3)])
def test_an_item_too_light_to_count_has_edges_of_0(normaliser, item, neighbour):
    assert between(normaliser, item, neighbour, 1) == 0


@every_normaliser
def test_two_items_that_never_meet_have_an_edge_of_0(normaliser):
    assert between(normaliser, 1, 2, 0) == 0


@every_normaliser
def test_every_edge_is_finite_and_not_negative(normaliser):
    item, neighbour = np.indices((5, 5), np.int32).reshape(2, -1)
    for pair_weight in (0.0, 2.0**-40, 1.0, 1e9):
        found = normaliser(np.full(25, pair_weight), item, neighbour, WEIGHTS)
        assert found.dtype == np.float64
        assert np.isfinite(found).all()
        assert (found >= 0).all()


@every_normaliser
def test_an_edge_grows_with_its_pair_weight(normaliser):
    share = np.linspace(0, 1, 20)[:, None] * np.sqrt(COUNTED.own[LEFT] * COUNTED.own[RIGHT])
    found = np.array([normaliser(pair_weight, LEFT, RIGHT, COUNTED) for pair_weight in share])
    steps = np.diff(found, axis=0)
    is_cut_off = (found[1:] == 0) & (normaliser is pmi)
    assert ((steps > 0) | is_cut_off).all()
    assert (steps[-1] > 0).all()


@every_normaliser
def test_an_edge_does_not_depend_on_the_edges_beside_it(normaliser):
    pair_weight = (COUNTS.T @ COUNTS)[LEFT, RIGHT]
    whole = normaliser(pair_weight, LEFT, RIGHT, COUNTED)
    some = slice(3, 9)
    found = normaliser(pair_weight[some], LEFT[some], RIGHT[some], COUNTED)
    assert found.tolist() == whole[some].tolist()


@pytest.mark.parametrize("normaliser", [raw, cosine, jaccard, lift, pmi])
def test_all_but_bm25_weigh_both_directions_alike(normaliser):
    pair_weight = (COUNTS.T @ COUNTS)[LEFT, RIGHT]
    there = normaliser(pair_weight, LEFT, RIGHT, COUNTED)
    assert there.tolist() == normaliser(pair_weight, RIGHT, LEFT, COUNTED).tolist()


@pytest.mark.parametrize(("shrinkage", "left"), [(0.0, 10.0), (3.0, 5.0), (9.0, 2.5)])
def test_shrinkage_is_the_pair_weight_at_which_half_an_edge_is_left(shrinkage, left):
    assert shrink(np.array([3.0]), np.array([10.0]), shrinkage).tolist() == [left]


def test_without_shrinkage_not_a_bit_changes():
    pair_weight, weight = np.random.default_rng(5).exponential(size=(2, 1000))
    assert shrink(pair_weight, weight, 0.0).tolist() == weight.tolist()


@pytest.mark.parametrize("shrinkage", [0.0, 3.0])
def test_a_pair_that_never_met_shrinks_to_0(shrinkage):
    assert shrink(np.array([0.0]), np.array([1.0]), shrinkage).tolist() == [0.0]


def test_every_normaliser_of_the_settings_is_there():
    allowed = ItemGraphSettings.model_fields["normaliser"].annotation
    assert tuple(NORMALISERS) == get_args(allowed)
