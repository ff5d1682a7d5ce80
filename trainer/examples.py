"""Examples: what losses are given and what they give.

N examples, D width, V items (rows 0..V of the output layer, row 0 is padding), K entries
"""

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor


class Output(NamedTuple):
    """The output layer: logits are `hidden_ND @ weight_VD.T + bias_V`.

    `weight_VD` is [V + 1, D]; `bias_V` is [V + 1] and -inf for padding. `log_sampling_V` [V + 1]
    is the log probability with which sampled losses draw each item, -inf for padding; without it
    they draw all alike.
    """

    weight_VD: Tensor
    bias_V: Tensor
    log_sampling_V: Tensor | None = None


@dataclass(frozen=True)
class Examples:
    """What should follow each of N positions: the observed item and its soft target q.

    Shapes: `targets_N` and `items_NK` int64 item indices; `target_masses_N`, q of the observed
    item; `masses_NK`, q of the other items it reached. An item occurs once per row and never is
    the target; entries of mass 0 are padding. A row may sum to less than 1: what the soft
    targets' `top_k` cut is on no item.
    """

    targets_N: Tensor
    target_masses_N: Tensor
    items_NK: Tensor
    masses_NK: Tensor

    def rows(self, start: int, stop: int) -> "Examples":
        """The examples from `start` to before `stop`."""
        here = slice(start, stop)
        return Examples(
            self.targets_N[here],
            self.target_masses_N[here],
            self.items_NK[here],
            self.masses_NK[here],
        )


class LossParts(NamedTuple):
    """Means over examples: what is minimised, and its two parts before weighting (for logs)."""

    total: Tensor
    confidence: Tensor
    distribution: Tensor
