"""Pooled: backbones that sum item embeddings up, for all positions of a history at once.

Both read two means of the history: one of all items alike, and one in which recent items weigh
more, since a plain mean cannot tell what came last.

    B batch, L sequence length, D width, P width of what goes into a layer
"""

import torch
from torch import Tensor, nn

from schemas.settings import TrainingSettings
from trainer.backbone import Backbone
from trainer.dropout import Dropout

RECENCY_DECAY = 0.8
"""An item's weight in the recent mean falls by this factor with every later position."""


class MLP(Backbone):
    """Feed-forward layers on the pooled history.

    With m_t the mean of the items so far and r_t their recent mean, the state is
    `W f(...f([m_t; r_t]))`, f a linear layer with GELU and dropout. The multilayer perceptron on
    averaged embeddings of Covington et al. 2016.
    """

    def __init__(self, settings: TrainingSettings, num_items: int) -> None:
        super().__init__(settings, num_items)
        self.deep = _feed_forward(settings)

    def encode(self, embedded_BLD: Tensor, is_item_BL1: Tensor) -> Tensor:  # noqa: D102
        return self.deep(pool(embedded_BLD, is_item_BL1))


class DeepFM(Backbone):
    """A factorisation machine beside feed-forward layers on the same embeddings.

    After Guo et al. 2017, whose fields become the items of the history and the item that is
    scored. Of their first order and pairwise terms, summed to a logit, those that are the same
    for all items cancel in a softmax. So that the history's pairs do not, their interactions
    stay a vector (bi-interaction pooling, He & Chua 2017) that is compared with the item:

        W [mean of e_i; sum over pairs i < j of e_i * e_j] + feed-forward layers, as in `MLP`
    """

    def __init__(self, settings: TrainingSettings, num_items: int) -> None:
        super().__init__(settings, num_items)
        width = settings.width
        # Products of small embeddings are tiny: without norms the deep part would drown them.
        self.first_order_norm, self.pairs_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.factorised = nn.Linear(2 * width, width, bias=False)
        self.deep = _feed_forward(settings)

    def encode(self, embedded_BLD: Tensor, is_item_BL1: Tensor) -> Tensor:  # noqa: D102
        first_order_BLD = self.first_order_norm(mean_so_far(embedded_BLD, is_item_BL1))
        pairs_BLD = self.pairs_norm(pairs_so_far(embedded_BLD))
        factorised_BLD = self.factorised(torch.cat([first_order_BLD, pairs_BLD], -1))
        return factorised_BLD + self.deep(pool(embedded_BLD, is_item_BL1))


def pool(embedded_BLD: Tensor, is_item_BL1: Tensor) -> Tensor:
    """Mean and recent mean of the items so far, side by side [B, L, 2D]."""
    means = [mean(embedded_BLD, is_item_BL1) for mean in (mean_so_far, recent_mean_so_far)]
    return torch.cat(means, -1)


def mean_so_far(embedded_BLD: Tensor, is_item_BL1: Tensor) -> Tensor:
    """Mean of the embeddings at positions 0..t that hold an item; 0 where none does.

    Args:
        embedded_BLD: Item embeddings, zeros where there is no item.
        is_item_BL1: Which positions hold an item.
    """
    return embedded_BLD.cumsum(1) / is_item_BL1.cumsum(1).clamp_min(1)


def recent_mean_so_far(embedded_BLD: Tensor, is_item_BL1: Tensor) -> Tensor:
    """As `mean_so_far`, weighting position s with `RECENCY_DECAY` to the power of t - s.

    A matrix of these weights, not a cumulative sum divided by powers of the decay: such powers
    leave the range of floats within a few hundred positions.
    """
    position_L = torch.arange(embedded_BLD.shape[1], device=embedded_BLD.device)
    age_LL = position_L[:, None] - position_L
    weight_LL = torch.where(age_LL < 0, 0.0, RECENCY_DECAY ** age_LL.clamp_min(0))
    weight_LL = weight_LL.to(embedded_BLD.dtype)
    total_BL1 = weight_LL @ is_item_BL1.to(embedded_BLD.dtype)
    return weight_LL @ embedded_BLD / total_BL1.clamp_min(torch.finfo(total_BL1.dtype).tiny)


def pairs_so_far(embedded_BLD: Tensor) -> Tensor:
    """Sum of `e_i * e_j`, by element, over all pairs of positions i < j ≤ t [B, L, D].

    By the sum-square trick of factorisation machines (Rendle 2010, lemma 3.1): half of what
    the squared sum exceeds the sum of squares by; linear in L, where pairs are quadratic.

    Args:
        embedded_BLD: Item embeddings, zeros where there is no item.
    """
    return (embedded_BLD.cumsum(1).square() - embedded_BLD.square().cumsum(1)) / 2


def _feed_forward(settings: TrainingSettings) -> nn.Sequential:
    """`num_blocks` hidden layers of the width that `pool` gives, then one down to D."""
    pooled = 2 * settings.width
    hidden = [
        layer
        for _ in range(settings.num_blocks)
        for layer in (nn.Linear(pooled, pooled), nn.GELU(), Dropout(settings.dropout))
    ]
    return nn.Sequential(nn.LayerNorm(pooled), *hidden, nn.Linear(pooled, settings.width))
