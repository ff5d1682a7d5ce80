import pytest
import torch

from schemas.settings import TrainingSettings
from trainer.backbones import build
from trainer.pooled import (
    RECENCY_DECAY,
    mean_so_far,
    pairs_so_far,
    pool,
    recent_mean_so_far,
)

IS_ITEM = torch.tensor([[True, True, True, True, True], [False, True, False, True, False]])[
    ..., None
]
EMBEDDED = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(1)) * IS_ITEM


def by_position(of_history):
    """What a function says of every history's items up to each position, one by one."""
    rows = [
        torch.stack([of_history(embedded[: t + 1], is_item[: t + 1, 0]) for t in range(5)])
        for embedded, is_item in zip(EMBEDDED, IS_ITEM, strict=True)
    ]
    return torch.stack(rows)


def test_the_mean_is_that_of_the_items_so_far():
    def mean(embedded, is_item):
        return embedded[is_item].mean(0) if is_item.any() else torch.zeros(3)

    torch.testing.assert_close(mean_so_far(EMBEDDED, IS_ITEM), by_position(mean))


def test_the_recent_mean_weighs_every_item_by_its_age():
    def recent_mean(embedded, is_item):
        total, weights = torch.zeros(3), 0.0
        for age, (row, is_one) in enumerate(zip(embedded.flip(0), is_item.flip(0), strict=True)):
            if is_one:
                total, weights = total + RECENCY_DECAY**age * row, weights + RECENCY_DECAY**age
        return total / weights if weights else total

    torch.testing.assert_close(recent_mean_so_far(EMBEDDED, IS_ITEM), by_position(recent_mean))


def test_the_recent_mean_of_two_items():
    embedded = torch.tensor([[[1.0], [0.0]]])
    recent = recent_mean_so_far(embedded, torch.ones(1, 2, 1, dtype=torch.bool))
    torch.testing.assert_close(recent, torch.tensor([[[1.0], [0.8 / 1.8]]]))


def test_a_mean_over_a_thousand_positions_is_finite():
    embedded, is_item = torch.ones(1, 1000, 2), torch.ones(1, 1000, 1, dtype=torch.bool)
    torch.testing.assert_close(pool(embedded, is_item), torch.ones(1, 1000, 4))


def test_pairs_are_the_sum_of_products_of_every_two_items():
    def pairs(embedded, _):
        total = torch.zeros(3)
        for j in range(len(embedded)):
            for i in range(j):
                total = total + embedded[i] * embedded[j]
        return total

    torch.testing.assert_close(pairs_so_far(EMBEDDED), by_position(pairs))


def test_pairs_of_literal_numbers():
    embedded = torch.tensor([[[1.0, 2.0], [3.0, 0.0], [0.0, 0.0], [5.0, 4.0]]])
    expected = torch.tensor([[[0.0, 0.0], [3.0, 0.0], [3.0, 0.0], [23.0, 8.0]]])
    assert torch.equal(pairs_so_far(embedded), expected)


@pytest.mark.parametrize("name", ["mlp", "deepfm"])
def test_what_came_last_changes_the_hidden_state(name):
    settings = TrainingSettings(backbone=name, width=16, max_length=8, history_skip=False)
    backbone = build(settings, 9).eval()
    there, back = backbone(torch.tensor([[1, 2, 3]])), backbone(torch.tensor([[3, 2, 1]]))
    assert not torch.allclose(there[:, -1], back[:, -1], atol=1e-3)


def test_interactions_reach_the_hidden_state_of_deepfm_from_the_second_item_on():
    settings = TrainingSettings(backbone="deepfm", width=16, max_length=8, history_skip=False)
    backbone = build(settings, 9).eval()
    items = torch.tensor([[1, 2, 3]])
    before = backbone(items)
    with torch.no_grad():
        backbone.factorised.weight[:, 16:] = 0  # what weighs the pairs
    after = backbone(items)
    assert torch.equal(before[:, 0], after[:, 0])
    assert not torch.isclose(before[:, 1:], after[:, 1:], atol=1e-3).all(2).any()
