"""Backbones: sequence models behind one interface.

`forward` reads histories and gives one hidden state per position; `score` compares hidden
states with every item. Histories are padded on the right: with causal models nothing real ever
looks at padding, so no mask is needed, and a batch may be cut to its longest history.

    B batch, L sequence length, D width, V items, N positions of a batch taken as rows
"""

from abc import abstractmethod
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from schemas.contract import PADDING_INDEX
from schemas.errors import SettingsError
from schemas.settings import TrainingSettings

INITIAL_STD = 0.02
"""Standard deviation of new embeddings: small, so that a new model starts from its item bias."""


class Backbone(nn.Module):
    """A causal sequence model with an item embedding that is also the output layer (tied).

    A backbone says how it encodes embedded items; embedding, history skip, output norm and
    scoring are the same for all.

    Args:
        settings: Width, depth, dropouts, `history_skip` and `max_length`.
        num_items: V, the catalogue without padding.
    """

    encoded_weight = 1.0
    """Weight of the encoded state beside the history skip."""

    def __init__(self, settings: TrainingSettings, num_items: int) -> None:
        super().__init__()
        self.num_items, self.max_length = num_items, settings.max_length
        self.item_dropout = settings.item_dropout
        self.item_embedding = nn.Embedding(num_items + 1, settings.width, PADDING_INDEX)
        nn.init.normal_(self.item_embedding.weight, std=INITIAL_STD)
        nn.init.zeros_(self.item_embedding.weight[PADDING_INDEX].detach())
        self.item_bias = nn.Parameter(torch.zeros(num_items))
        self.dropout = nn.Dropout(settings.dropout)
        self.history_norm = nn.LayerNorm(settings.width) if settings.history_skip else None
        self.norm = nn.LayerNorm(settings.width)

    @abstractmethod
    def encode(self, embedded_BLD: Tensor) -> Tensor:
        """States [B, L, D] of embedded items; position t depends on positions 0..t only."""

    def forward(self, items_BL: Tensor) -> Tensor:
        """Hidden states [B, L, D] of histories [B, L], oldest first, zeros on the right.

        Position t depends on items 0..t only. L is at most `max_length`.
        """
        if self.training and self.item_dropout:
            is_dropped_BL = torch.rand(items_BL.shape) < self.item_dropout
            items_BL = items_BL.masked_fill(is_dropped_BL, PADDING_INDEX)
        embedded_BLD = self.dropout(self.item_embedding(items_BL))
        hidden_BLD = self.encode(embedded_BLD)
        if self.history_norm is not None:
            history_BLD = self.history_norm(_history(items_BL, embedded_BLD))
            hidden_BLD = self.encoded_weight * hidden_BLD + history_BLD
        return self.norm(hidden_BLD)

    @torch.no_grad()
    def start_from(self, counts_V: np.ndarray) -> None:
        """Starts from popularity: item biases become centred log counts.

        A softmax over them alone is the distribution of training targets, so training spends
        no epoch on finding it; it learns what histories add.

        Args:
            counts_V: How often each item is a target, by `item_index` [V + 1].
        """
        log_counts = torch.from_numpy(np.log1p(counts_V[PADDING_INDEX + 1 :]))
        self.item_bias.copy_(log_counts - log_counts.mean())

    def score(self, hidden_ND: Tensor) -> Tensor:
        """Logits [N, V + 1]; column j is `item_index` j, column 0 (padding) is always -inf."""
        padding = self.item_bias.new_full((1,), -torch.inf)
        bias = torch.cat([padding, self.item_bias])
        return torch.addmm(bias, hidden_ND, self.item_embedding.weight.T)

    def score_next(self, items_BL: Tensor, lengths_B: Tensor) -> Tensor:
        """Logits [B, V + 1] of what follows each history's last real position, as `score`."""
        rows = torch.arange(len(items_BL), device=items_BL.device)
        return self.score(self(items_BL)[rows, lengths_B - 1])


class SASRec(Backbone):
    """Self-attention with learned positions (Kang & McAuley 2018), pre-norm."""

    encoded_weight = 0.3  # the residual stream grows with depth and would drown the history

    def __init__(self, settings: TrainingSettings, num_items: int) -> None:
        if settings.width % settings.num_heads:
            raise SettingsError(
                f"training.num_heads = {settings.num_heads}",
                f"a divisor of training.width = {settings.width}",
                "pipeline.toml",
            )
        super().__init__(settings, num_items)
        self.positions = nn.Parameter(
            INITIAL_STD * torch.randn(settings.max_length, settings.width)
        )
        self.blocks = nn.ModuleList(
            AttentionBlock(settings.width, settings.num_heads, settings.dropout)
            for _ in range(settings.num_blocks)
        )

    def encode(self, embedded_BLD: Tensor) -> Tensor:  # noqa: D102
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
            nn.Linear(width, 2 * width), nn.GELU(), nn.Dropout(dropout), nn.Linear(2 * width, width)
        )
        self.dropout = nn.Dropout(dropout)

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


class GRU4Rec(Backbone):
    """Gated recurrent layers (Hidasi et al. 2016), all positions trained at once."""

    def __init__(self, settings: TrainingSettings, num_items: int) -> None:
        super().__init__(settings, num_items)
        self.layers = nn.GRU(
            settings.width,
            settings.width,
            settings.num_blocks,
            batch_first=True,
            dropout=settings.dropout if settings.num_blocks > 1 else 0.0,
        )

    def encode(self, embedded_BLD: Tensor) -> Tensor:  # noqa: D102
        hidden_BLD, _ = self.layers(embedded_BLD)
        return self.dropout(hidden_BLD)


def _history(items_BL: Tensor, embedded_BLD: Tensor) -> Tensor:
    """Sum of everything embedded so far, by the square root of how many items that is."""
    num_so_far_BL1 = (items_BL != PADDING_INDEX).cumsum(1).clamp_min(1)[:, :, None]
    return embedded_BLD.cumsum(1) / num_so_far_BL1.sqrt()


BACKBONES: dict[str, Callable[[TrainingSettings, int], Backbone]] = {
    "sasrec": SASRec,
    "gru4rec": GRU4Rec,
}
"""By `training.backbone`. A new one joins here, in the settings, and in the shared tests."""


def build(settings: TrainingSettings, num_items: int) -> Backbone:
    """A new backbone; its weights are a function of the settings (with their seed) alone.

    Args:
        settings: The training section.
        num_items: V, the catalogue without padding.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        return BACKBONES[settings.backbone](settings, num_items)
