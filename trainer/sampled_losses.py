"""Sampled losses: objectives that compare the observed item with a few drawn ones.

One set of K negatives is drawn for a batch, with torch's generator, so that an interrupted run
draws the same. A negative that is an example's target is left out for that example.

    N examples, D width, K negatives, V items
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from schemas.settings import TrainingSettings
from trainer.examples import Examples, LossParts, Output


class Drawn(NamedTuple):
    """Logits of N targets and of the negatives drawn for them.

    `counts_NK` is False where a negative is the example's target; `log_expected_K` is the log of
    how often a negative is expected among the K; `num_items` is V.
    """

    target_N: Tensor
    negative_NK: Tensor
    counts_NK: Tensor
    log_expected_K: Tensor
    num_items: int


Rule = Callable[[Drawn, TrainingSettings], Tensor]
"""Losses [N] of the examples."""


def sampled_softmax(drawn: Drawn, settings: TrainingSettings) -> Tensor:
    """-z_y + log(exp z_y + Σ_j exp(z_j - log E_j)): softmax with the logQ correction.

    E_j is how often j is expected among the drawn; the sum estimates that of all other items
    without bias (Bengio & Senécal 2008; Jean et al. 2015, §3.1).
    """
    corrected_NK = (drawn.negative_NK - drawn.log_expected_K).masked_fill(
        ~drawn.counts_NK, -torch.inf
    )
    return torch.cat([drawn.target_N[:, None], corrected_NK], 1).logsumexp(1) - drawn.target_N


def bce(drawn: Drawn, settings: TrainingSettings) -> Tensor:
    """-(log σ(z_y) + Σ_j log(1 - σ(z_j))) / (K + 1) (Kang & McAuley 2018, with K negatives)."""
    return _binary(drawn, positive_weight=1.0)


def gbce(drawn: Drawn, settings: TrainingSettings) -> Tensor:
    """BCE of σ(z_y)^β, which takes back the overconfidence that few negatives teach.

    β = a (t (1 - 1/a) + 1/a) with the sampling rate a = K / (V - 1) and t = `gbce_calibration`
    (Petrov & Macdonald 2023, gSASRec, eq. 9 and 17).
    """
    rate = min(1.0, settings.num_negatives / max(drawn.num_items - 1, 1))
    t = settings.gbce_calibration
    return _binary(drawn, positive_weight=rate * (t * (1 - 1 / rate) + 1 / rate))


def bpr(drawn: Drawn, settings: TrainingSettings) -> Tensor:
    """-mean over negatives of log σ(z_y - z_j) (Rendle et al. 2009)."""
    differences_NK = drawn.target_N[:, None] - drawn.negative_NK
    losses_NK = -F.logsigmoid(differences_NK) * drawn.counts_NK
    return losses_NK.sum(1) / drawn.counts_NK.sum(1).clamp_min(1)


def sampled_loss(
    rule: Rule,
    hidden_ND: Tensor,
    output: Output,
    examples: Examples,
    settings: TrainingSettings,
) -> LossParts:
    """The mean of a rule's losses over N examples against `num_negatives` drawn items.

    Args:
        rule: What the loss is.
        hidden_ND: Hidden states of the examples' positions.
        output: The output layer; its `log_sampling_V` says how items are drawn.
        examples: Targets; soft targets are not looked at.
        settings: `num_negatives` and what the rule asks for.
    """
    targets_N, (weight_VD, bias_V, _) = examples.targets_N, output
    negatives_K, log_expected_K = draw(output, settings.num_negatives)
    drawn = Drawn(
        (hidden_ND * weight_VD[targets_N]).sum(1) + bias_V[targets_N],
        torch.addmm(bias_V[negatives_K], hidden_ND, weight_VD[negatives_K].T),
        targets_N[:, None] != negatives_K,
        log_expected_K,
        len(bias_V) - 1,
    )
    total = rule(drawn, settings).mean()
    return LossParts(total, total.detach(), torch.zeros_like(total.detach()))


def draw(output: Output, num_negatives: int) -> tuple[Tensor, Tensor]:
    """K items with replacement, int64 [K], and the log of how often each is expected, [K]."""
    bias_V, log_sampling_V = output.bias_V, output.log_sampling_V
    num_items, device = len(bias_V) - 1, bias_V.device
    if log_sampling_V is None:
        negatives_K = torch.randint(1, num_items + 1, (num_negatives,), device=device)
        return negatives_K, bias_V.new_full((num_negatives,), math.log(num_negatives / num_items))
    # By the inverse of the distribution function: `multinomial` takes 2^24 categories at most.
    ends_V = log_sampling_V.double().exp().cumsum(0)
    points_K = torch.rand(num_negatives, dtype=torch.float64, device=device) * ends_V[-1]
    negatives_K = torch.searchsorted(ends_V, points_K, right=True).clamp_max(num_items)
    log_expected_K = log_sampling_V[negatives_K] + math.log(num_negatives)
    return negatives_K, log_expected_K.to(bias_V.dtype)


def log_sampling(counts_V: Tensor, power: float) -> Tensor:
    """Log probability of drawing each item by a power of its popularity, [V + 1] float64.

    One is added to every count, so that no item is never drawn; padding is at -inf.

    Args:
        counts_V: How often each item is a target, by `item_index`.
        power: 0 draws all items alike, 1 as often as they occur.
    """
    weights_V = power * (counts_V.double() + 1).log()
    weights_V[0] = -torch.inf
    return weights_V.log_softmax(0)


def _binary(drawn: Drawn, positive_weight: float) -> Tensor:
    """Binary cross-entropy of the target against negatives, by how many there are."""
    losses_NK = -F.logsigmoid(-drawn.negative_NK) * drawn.counts_NK
    own_N = -positive_weight * F.logsigmoid(drawn.target_N)
    return (own_N + losses_NK.sum(1)) / (drawn.counts_NK.sum(1) + 1)
