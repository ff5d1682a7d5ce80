"""Attention: the backbone whose positions look back at all before them.

B batch, L sequence length, D width
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from schemas.settings import TrainingSettings
from trainer.backbone import INITIAL_STD, Backbone
from trainer.dropout import Dropout


class SASRec(Backbone):
    """Self-attention with learned positions (Kang & McAuley 2018), pre-norm."""

    encoded_weight = 0.3  # the residual stream grows with depth and would drown the history

    def __init__(self, settings: TrainingSettings, num_items: int) -> None:
        super().__init__(settings, num_items)
        self.positions = nn.Parameter(
            INITIAL_STD * torch.randn(settings.max_length, settings.width)
        )
        self.blocks = nn.ModuleList(
            AttentionBlock(settings.width, settings.num_heads, settings.dropout)
            for _ in range(settings.num_blocks)
        )

    def encode(self, embedded_BLD: Tensor, is_item_BL1: Tensor) -> Tensor:  # noqa: D102
        hidden_BLD = embedded_BLD + self.positions[: embedded_BLD.shape[1]]
        for block in self.blocks:
            hidden_BLD = block(hidden_BLD)
        return hidden_BLD


class AttentionBlock(nn.Module):
    """Pre-norm causal self-attention, then a feed-forward layer of twice the width."""

    def __init__(self, width: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.attention_norm, self.feed_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.queries_keys_values = nn.Linear(width, 3 * width)
        self.attended = nn.Linear(width, width)
        self.feed = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), Dropout(dropout), nn.Linear(2 * width, width)
        )
        self.dropout = Dropout(dropout)

    def forward(self, hidden_BLD: Tensor) -> Tensor:
        """Hidden states of the same shape."""
        attended = self.attended(self._attend(self.attention_norm(hidden_BLD)))
        hidden_BLD = hidden_BLD + self.dropout(attended)
        return hidden_BLD + self.dropout(self.feed(self.feed_norm(hidden_BLD)))

    def _attend(self, hidden_BLD: Tensor) -> Tensor:
        B, L, D = hidden_BLD.shape
        split = self.queries_keys_values(hidden_BLD).view(B, L, 3, self.num_heads, -1)
        query, key, value = split.permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        return attended.transpose(1, 2).reshape(B, L, D)
