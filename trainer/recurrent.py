"""Recurrent: the backbone that carries a state from position to position.

B batch, L sequence length, D width
"""

from torch import Tensor, nn

from schemas.settings import TrainingSettings
from trainer.backbone import Backbone


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

    def encode(self, embedded_BLD: Tensor, is_item_BL1: Tensor) -> Tensor:  # noqa: D102
        hidden_BLD, _ = self.layers(embedded_BLD)
        return self.dropout(hidden_BLD)
