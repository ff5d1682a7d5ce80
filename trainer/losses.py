"""Losses: training objectives behind one signature.

Every loss takes logits over the catalogue and the examples they belong to, and gives its mean
over examples with its two parts. None builds a dense soft label.

    N examples, V items (columns 0..V, column 0 is padding at -inf), K soft-target entries
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from schemas.settings import TrainingSettings


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


class LossParts(NamedTuple):
    """Means over examples: what is minimised, and its two parts before weighting (for logs)."""

    total: Tensor
    confidence: Tensor
    distribution: Tensor


def cross_entropy(logits_NV: Tensor, examples: Examples, settings: TrainingSettings) -> LossParts:
    """-log p of the observed item; soft targets are not looked at."""
    total = F.cross_entropy(logits_NV, examples.targets_N)
    return LossParts(total, total.detach(), torch.zeros_like(total.detach()))


def decoupled(logits_NV: Tensor, examples: Examples, settings: TrainingSettings) -> LossParts:
    """λ2 · BCE(p_y, c) + (1-λ2) · KL(q̂ ‖ p̂), with c = λ1·q_y + 1 - λ1.

    p̂ and q̂ are p and q over the other items, renormalised without the observed item y; so mass
    that was dropped from q is spread over the entries that were kept, in proportion, while q_y
    is taken as it is. KL is 0 where q has no other item. (arXiv 2410.06536.)

    Args:
        logits_NV: z, any float type; column 0 at -inf.
        examples: Targets and soft targets.
        settings: `lambda1` and `lambda2`.
    """
    sums_N1 = examples.masses_NK.sum(1, keepdim=True)
    others_NK = torch.where(sums_N1 > 0, examples.masses_NK / sums_N1, 0.0)
    aims_N = settings.lambda1 * examples.target_masses_N + 1 - settings.lambda1
    targets_N1 = examples.targets_N[:, None]
    bce_N, kl_N = _Decoupled.apply(logits_NV, targets_N1, aims_N, examples.items_NK, others_NK)
    confidence, distribution = bce_N.mean(), kl_N.mean()
    total = settings.lambda2 * confidence + (1 - settings.lambda2) * distribution
    return LossParts(total, confidence.detach(), distribution.detach())


Loss = Callable[[Tensor, Examples, TrainingSettings], LossParts]

LOSSES: dict[str, Loss] = {"cross_entropy": cross_entropy, "decoupled": decoupled}
"""By `training.loss`. A new one joins here, in the settings, and in the shared tests."""

USE_SOFT_TARGETS = frozenset({"decoupled"})
"""The losses that look at soft targets; for the others none are read."""


class _Decoupled(torch.autograd.Function):
    """BCE(p_y, c) [N] and KL(q̂ ‖ p̂) [N], with the gradient written out.

    Autograd would walk over N×V once for each of logsumexp, both gathers and their sum; by hand
    it is one pass: for j ≠ y, ∂BCE/∂z_j = (c - p_y)·p̂_j and ∂KL/∂z_j = p̂_j - q̂_j; for y,
    ∂BCE/∂z_y = p_y - c and ∂KL/∂z_y = 0.
    """

    @staticmethod
    def forward(
        ctx: Any, logits_NV: Tensor, targets_N1: Tensor, aims_N: Tensor, items: Tensor, q: Tensor
    ) -> tuple[Tensor, Tensor]:
        log_p_NV = logits_NV.log_softmax(1)
        log_p_N = log_p_NV.gather(1, targets_N1)[:, 0]
        log_rest_N = _log_rest(logits_NV, targets_N1, log_p_N)
        bce_N = -(aims_N * log_p_N + (1 - aims_N) * log_rest_N)
        log_p_hat_NK = log_p_NV.gather(1, items) - log_rest_N[:, None]
        kl_N = (torch.special.xlogy(q, q) - q * log_p_hat_NK.masked_fill(q == 0, 0)).sum(1)
        ctx.save_for_backward(log_p_NV, log_p_N, log_rest_N, targets_N1, aims_N, items, q)
        return bce_N, kl_N

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        log_p_NV, log_p_N, log_rest_N, targets_N1, aims_N, items, q = ctx.saved_tensors
        (grad_bce_N, grad_kl_N), p_N = grads, log_p_N.exp()
        grad_kl_N = grad_kl_N * (q > 0).any(1)
        scale_N = grad_bce_N * (aims_N - p_N) + grad_kl_N
        grad_NV = torch.sub(log_p_NV, log_rest_N[:, None]).exp_().mul_(scale_N[:, None])
        grad_NV.scatter_(1, targets_N1, (grad_bce_N * (p_N - aims_N))[:, None])
        grad_NV.scatter_add_(1, items, -q * grad_kl_N[:, None])
        return grad_NV, None, None, None, None


def _log_rest(logits_NV: Tensor, targets_N1: Tensor, log_p_N: Tensor) -> Tensor:
    """log(1 - p_y), [N], precise for p_y near 1 too.

    1 - p_y loses no digits below one half. Above it, it would be the difference of nearly equal
    numbers: for those rows, few in practice, the other items' mass is summed itself.
    """
    log_rest_N = torch.log1p(-log_p_N.exp())
    rows = (log_p_N > -math.log(2)).nonzero()[:, 0]
    if len(rows):
        logits, targets = logits_NV[rows], targets_N1[rows]
        log_odds = (
            logits.scatter(1, targets, -torch.inf).logsumexp(1) - logits.gather(1, targets)[:, 0]
        )
        log_rest_N[rows] = F.logsigmoid(log_odds)
    return log_rest_N.clamp_min(torch.finfo(log_rest_N.dtype).min / 4)  # a catalogue of one item
