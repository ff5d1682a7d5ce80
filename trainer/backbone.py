"""Backbone: the interface of all sequence models.

`forward` reads histories and gives one hidden state per position; `score` compares hidden
states with every item. Histories are padded on the right: with causal models nothing real ever
looks at padding, so no mask is needed, and a batch may be cut to its longest history.

    B batch, L sequence length, D width, V items, N positions of a batch taken as rows
"""

from abc import abstractmethod

import numpy as np
import torch
from torch import Tensor, nn

from schemas.contract import PADDING_INDEX
from schemas.settings import TrainingSettings
from trainer.dropout import Dropout

INITIAL_STD = 0.02
"""Standard deviation of new embeddings: small, so that a new model starts from its item bias."""


class Backbone(nn.Module):
    """A causal sequence model with an item embedding that is also the output layer when tied.

    A backbone says how it encodes embedded items; embedding, history skip, output norm and
    scoring are the same for all.

    Args:
        settings: Width, depth, dropouts, `history_skip`, `tied_output` and `max_length`.
        num_items: V, the catalogue without padding.
    """

    encoded_weight = 1.0
    """Weight of the encoded state beside the history skip."""

    def __init__(self, settings: TrainingSettings, num_items: int) -> None:
        super().__init__()
        self.num_items, self.max_length = num_items, settings.max_length
        self.item_dropout = settings.item_dropout
        self.item_embedding = _item_embedding(num_items, settings.width)
        self.output_embedding = (
            None if settings.tied_output else _item_embedding(num_items, settings.width)
        )
        self.item_bias = nn.Parameter(torch.zeros(num_items))
        self.dropout = Dropout(settings.dropout)
        self.history_norm = nn.LayerNorm(settings.width) if settings.history_skip else None
        self.norm = nn.LayerNorm(settings.width)

    @abstractmethod
    def encode(self, embedded_BLD: Tensor, is_item_BL1: Tensor) -> Tensor:
        """States [B, L, D] of embedded items; position t depends on positions 0..t only.

        Args:
            embedded_BLD: Item embeddings after dropout; zeros at padding.
            is_item_BL1: False at padding, and where item dropout hides an item.
        """

    def forward(self, items_BL: Tensor) -> Tensor:
        """Hidden states [B, L, D] of histories [B, L], oldest first, zeros on the right.

        Position t depends on items 0..t only. L is at most `max_length`.
        """
        if self.training and self.item_dropout:
            is_dropped_BL = torch.rand(items_BL.shape, device=items_BL.device) < self.item_dropout
            items_BL = items_BL.masked_fill(is_dropped_BL, PADDING_INDEX)
        is_item_BL1 = (items_BL != PADDING_INDEX)[:, :, None]
        embedded_BLD = self.dropout(self.item_embedding(items_BL))
        hidden_BLD = self.encode(embedded_BLD, is_item_BL1)
        if self.history_norm is not None:
            history_BLD = self.history_norm(_history(embedded_BLD, is_item_BL1))
            hidden_BLD = self.encoded_weight * hidden_BLD + history_BLD
        return self.norm(hidden_BLD)

    @torch.no_grad()
    def start_from(self, counts_V: np.ndarray) -> None:
        """Starts from popularity: item biases become centred log counts.

        A softmax over them alone is nearly the distribution of training targets (`target_counts`
        has a history's first item, too), so training spends no epoch on finding it; it learns what
        histories add.

        Args:
            counts_V: How often each item is a target, by `item_index` [V + 1].
        """
        log_counts = torch.from_numpy(np.log1p(counts_V[PADDING_INDEX + 1 :]))
        self.item_bias.copy_(log_counts - log_counts.mean())

    def output(self) -> tuple[Tensor, Tensor]:
        """The output layer: weights [V + 1, D] and biases [V + 1], row j for `item_index` j.

        The bias of padding is -inf. A loss that does not need all logits takes its rows here.
        """
        embedding = self.item_embedding if self.output_embedding is None else self.output_embedding
        padding = self.item_bias.new_full((1,), -torch.inf)
        return embedding.weight, torch.cat([padding, self.item_bias])

    def score(self, hidden_ND: Tensor) -> Tensor:
        """Logits [N, V + 1]; column j is `item_index` j, column 0 (padding) is always -inf."""
        weight, bias = self.output()
        return torch.addmm(bias, hidden_ND, weight.T)

    def score_next(self, items_BL: Tensor, lengths_B: Tensor) -> Tensor:
        """Logits [B, V + 1] of what follows each history's last real position, as `score`."""
        rows = torch.arange(len(items_BL), device=items_BL.device)
        return self.score(self(items_BL)[rows, lengths_B - 1])


def _item_embedding(num_items: int, width: int) -> nn.Embedding:
    embedding = nn.Embedding(num_items + 1, width, PADDING_INDEX)
    nn.init.normal_(embedding.weight, std=INITIAL_STD)
    nn.init.zeros_(embedding.weight[PADDING_INDEX].detach())
    return embedding


def _history(embedded_BLD: Tensor, is_item_BL1: Tensor) -> Tensor:
    """Sum of everything embedded so far, by the square root of how many items that is."""
    return embedded_BLD.cumsum(1) / is_item_BL1.cumsum(1).clamp_min(1).sqrt()
