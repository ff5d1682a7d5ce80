from typing import get_args

import numpy as np
import pytest
from sklearn.metrics.pairwise import cosine_similarity

from jobs.normalisers import NORMALISERS, ItemWeights, cosine, raw
from schemas.settings import ItemGraphSettings

ITEM, NEIGHBOUR = np.array([1, 1], np.int32), np.array([2, 3], np.int32)
PAIR_WEIGHT = np.array([3.0, 1.0])
WEIGHTS = ItemWeights(own=np.array([0.0, 4.0, 9.0, 0.0]))


def test_raw_keeps_the_pair_weight():
    assert raw(PAIR_WEIGHT, ITEM, NEIGHBOUR, WEIGHTS).tolist() == [3.0, 1.0]


def test_cosine_divides_by_the_geometric_mean_of_own_weights():
    assert cosine(PAIR_WEIGHT, ITEM, NEIGHBOUR, WEIGHTS)[0] == pytest.approx(3 / 6)


def test_cosine_with_an_item_too_light_to_count_is_0():
    assert cosine(PAIR_WEIGHT, ITEM, NEIGHBOUR, WEIGHTS)[1] == 0


def test_cosine_of_whole_histories_is_the_cosine_of_count_columns():
    counts = np.random.default_rng(3).poisson(0.7, (40, 7)).astype(float)
    item, neighbour = np.triu_indices(7, k=1)
    found = cosine(
        (counts.T @ counts)[item, neighbour],
        item.astype(np.int32),
        neighbour.astype(np.int32),
        ItemWeights(own=(counts**2).sum(axis=0)),
    )
    np.testing.assert_allclose(found, cosine_similarity(counts.T)[item, neighbour])


def test_every_normaliser_of_the_settings_is_there():
    allowed = ItemGraphSettings.model_fields["normaliser"].annotation
    assert tuple(NORMALISERS) == get_args(allowed)
