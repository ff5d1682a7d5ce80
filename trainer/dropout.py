"""Dropout: as torch's, from a quarter of the random numbers.

On a CPU, torch draws a 64-bit number per element with one thread; that took a quarter of a training
step (`python -m benchmarks.training --parts paper`). Here one such number decides four elements.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEVELS = 2**16
"""A probability is rounded to a multiple of one over this."""


class Dropout(nn.Module):
    """Sets elements to 0 with probability p while training, and scales the others by 1 / (1 - p).

    Args:
        p: At least 0 and below 1, rounded to 1/65,536 on a CPU; the scale is that of the
            rounded one, so that expectations are kept.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, values: Tensor) -> Tensor:
        """Values of the same shape; the same where not training."""
        if not self.training or self.p == 0:
            return values
        if values.device.type != "cpu":
            return F.dropout(values, self.p)
        num_dropped = min(round(self.p * LEVELS), LEVELS - 1)
        words = torch.empty(-(-values.numel() // 4), dtype=torch.int64)
        words.random_(torch.iinfo(torch.int64).min, None)
        lanes = words.view(torch.int16)[: values.numel()].view(values.shape)
        is_kept = lanes >= num_dropped - LEVELS // 2
        return values * is_kept.to(values.dtype).mul_(LEVELS / (LEVELS - num_dropped))
