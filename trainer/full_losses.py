"""Full losses: objectives that need the logits of the whole catalogue, in chunks of examples.

A rule gives the loss of some examples and writes its gradient over their logits. The driver takes
as many examples at once as the budget allows, multiplies their gradient with the output layer
right away and forgets the logits, so peak memory follows the budget instead of N × V, and every
logit is computed once (the fused linear cross-entropy of Hsu et al. 2024, Liger Kernel, §3.2).

    N examples, C of them in a chunk, D width, V items (columns 0..V, column 0 is padding)
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from schemas.settings import TrainingSettings
from trainer.examples import Examples, LossParts, Output

LEAST_BUDGET_MB = 64
"""Memory for logits below which there is nothing to gain."""

SMALLEST_LOG_REST = -50.0
"""Of log(1 - p_y), from which on 1 / (1 - p_y) and its products stay floats."""

PIECES = 8
"""Of a chunk's rows, where some have to be copied."""


class Losses(NamedTuple):
    """Losses of C examples: total, its two parts before weighting, and ∂ total / ∂ logits.

    `gradient_CV` may lie in the memory of the log-probabilities it was computed from.
    """

    total_C: Tensor
    confidence_C: Tensor
    distribution_C: Tensor
    gradient_CV: Tensor


Rule = Callable[[Tensor, Examples, TrainingSettings], Losses]
"""(log p [C, V + 1], which may be overwritten; examples; settings) to losses and gradient."""


def cross_entropy(log_p_CV: Tensor, examples: Examples, settings: TrainingSettings) -> Losses:
    """-log p of the observed item; soft targets are not looked at."""
    targets_C1 = examples.targets_N[:, None]
    total_C = -log_p_CV.gather(1, targets_C1)[:, 0]
    gradient_CV = log_p_CV.exp_()
    gradient_CV.scatter_add_(1, targets_C1, -torch.ones_like(total_C)[:, None])
    return Losses(total_C, total_C, torch.zeros_like(total_C), gradient_CV)


def label_smoothing(log_p_CV: Tensor, examples: Examples, settings: TrainingSettings) -> Losses:
    """(1-ε) · (-log p_y) - ε · mean of log p over the catalogue (Szegedy et al. 2016, §7).

    ε is `label_smoothing`. The second term is reported as the distribution.
    """
    epsilon, num_items = settings.label_smoothing, log_p_CV.shape[1] - 1
    targets_C1 = examples.targets_N[:, None]
    # Far below the smallest probability a float holds; keeps an item at -inf from ruling alone.
    floor = torch.finfo(log_p_CV.dtype).min / (4 * num_items)
    confidence_C = -log_p_CV.gather(1, targets_C1)[:, 0]
    distribution_C = -log_p_CV[:, 1:].clamp_min_(floor).mean(1)  # exp of either is 0
    gradient_CV = log_p_CV.exp_()
    gradient_CV[:, 1:] -= epsilon / num_items
    gradient_CV.scatter_add_(1, targets_C1, torch.full_like(confidence_C, epsilon - 1)[:, None])
    total_C = (1 - epsilon) * confidence_C + epsilon * distribution_C
    return Losses(total_C, confidence_C, distribution_C, gradient_CV)


def soft_labels(log_p_CV: Tensor, examples: Examples, settings: TrainingSettings) -> Losses:
    """-Σ_j q_j log p_j with the soft target's kept mass scaled to 1: plain soft labels.

    The share of the observed item is reported as confidence, that of the others as distribution.
    Where q has no mass at all it is the observed item's.
    """
    targets_C1, items = examples.targets_N[:, None], examples.items_NK
    sums_C = examples.target_masses_N + examples.masses_NK.sum(1)
    own_C = torch.where(sums_C > 0, examples.target_masses_N / sums_C, 1.0)
    others_CK = torch.where(sums_C[:, None] > 0, examples.masses_NK / sums_C[:, None], 0.0)
    confidence_C = -own_C * log_p_CV.gather(1, targets_C1)[:, 0]
    log_p_CK = log_p_CV.gather(1, items).masked_fill(others_CK == 0, 0)
    distribution_C = -(others_CK * log_p_CK).sum(1)
    gradient_CV = log_p_CV.exp_()
    gradient_CV.scatter_add_(1, targets_C1, -own_C[:, None])
    gradient_CV.scatter_add_(1, items, -others_CK)
    return Losses(confidence_C + distribution_C, confidence_C, distribution_C, gradient_CV)


def decoupled(log_p_CV: Tensor, examples: Examples, settings: TrainingSettings) -> Losses:
    """λ2 · BCE(p_y, c) + (1-λ2) · KL(q̂ ‖ p̂), with c = λ1·q_y + 1 - λ1.

    p̂ and q̂ are p and q over the other items, renormalised without the observed item y; so mass
    that was dropped from q is spread over the entries that were kept, in proportion, while q_y
    is taken as it is. KL is 0 where q has no other item. (arXiv 2410.06536.)

    For j ≠ y, ∂BCE/∂z_j = (c - p_y)·p̂_j and ∂KL/∂z_j = p̂_j - q̂_j; for y, ∂BCE/∂z_y = p_y - c
    and ∂KL/∂z_y = 0.
    """
    lambda2, targets_C1, items = settings.lambda2, examples.targets_N[:, None], examples.items_NK
    sums_C1 = examples.masses_NK.sum(1, keepdim=True)
    q = torch.where(sums_C1 > 0, examples.masses_NK / sums_C1, 0.0)
    aims_C = settings.lambda1 * examples.target_masses_N + 1 - settings.lambda1
    log_p_C = log_p_CV.gather(1, targets_C1)[:, 0]
    log_rest_C = _log_rest(log_p_CV, targets_C1, log_p_C)
    bce_C = -(aims_C * log_p_C + (1 - aims_C) * log_rest_C)
    log_p_hat_CK = log_p_CV.gather(1, items) - log_rest_C[:, None]
    kl_C = (torch.special.xlogy(q, q) - q * log_p_hat_CK.masked_fill(q == 0, 0)).sum(1)
    p_C, kl_weight_C = log_p_C.exp(), (1 - lambda2) * (q > 0).any(1).to(q.dtype)
    scale_C = lambda2 * (aims_C - p_C) + kl_weight_C
    gradient_CV = _scaled_rest(log_p_CV, log_rest_C, scale_C)
    gradient_CV.scatter_(1, targets_C1, (lambda2 * (p_C - aims_C))[:, None])
    gradient_CV.scatter_add_(1, items, -q * kl_weight_C[:, None])
    return Losses(lambda2 * bce_C + (1 - lambda2) * kl_C, bce_C, kl_C, gradient_CV)


def full_loss(
    rule: Rule,
    hidden_ND: Tensor,
    output: Output,
    examples: Examples,
    settings: TrainingSettings,
) -> LossParts:
    """The mean of a rule's losses over N examples, with gradients.

    Args:
        rule: What the loss is.
        hidden_ND: Hidden states of the examples' positions.
        output: The output layer.
        examples: Targets and soft targets.
        settings: What the rule asks for; `precision` of matrix products; and `logits_budget_mb`,
            which bounds the memory of logits and does not change the result, but for rounding.
    """
    total, confidence, distribution = _Full.apply(
        hidden_ND, output.weight_VD, output.bias_V, rule, examples, settings
    )
    return LossParts(total, confidence, distribution)


class _Full(torch.autograd.Function):
    """Means over N examples; gradients are made with the losses, chunk by chunk."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor,
        rule: Rule,
        examples: Examples,
        settings: TrainingSettings,
    ) -> tuple[Tensor, Tensor, Tensor]:
        num_examples = len(hidden_ND)
        size = rows_at_once(weight_VD, settings.logits_budget_mb)
        gradients = None
        if any(ctx.needs_input_grad):
            gradients = Gradients(*map(torch.empty_like, (hidden_ND, weight_VD, bias_V)))
        dtype = torch.bfloat16 if settings.precision == "bfloat16" else hidden_ND.dtype
        hidden_ND, weight_VD = hidden_ND.to(dtype), weight_VD.to(dtype)
        sums = bias_V.new_zeros(3)
        for start in range(0, num_examples, size):
            hidden_CD = hidden_ND[start : start + size]
            log_p_CV = _log_softmax(hidden_CD, weight_VD, bias_V)
            losses = rule(log_p_CV, examples.rows(start, start + size), settings)
            sums += torch.stack([part.sum() for part in losses[:3]])
            if gradients is not None:
                gradients.add(start, losses.gradient_CV, hidden_CD / num_examples, weight_VD)
            del log_p_CV, losses  # before the next chunk's logits are made
        if gradients is not None:
            gradients.hidden_ND.div_(num_examples)
            gradients.bias_V.div_(num_examples)
        ctx.gradients = gradients
        total, confidence, distribution = sums / num_examples
        ctx.mark_non_differentiable(confidence, distribution)
        return total, confidence, distribution

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        gradients, ctx.gradients = ctx.gradients, None
        if grads[0] != 1:  # a pass over all weights that a plain `total.backward()` does without
            gradients = [gradient.mul_(grads[0]) for gradient in gradients]
        return (*gradients, None, None, None)


class Gradients(NamedTuple):
    """Of a sum of losses with respect to what the logits are made of."""

    hidden_ND: Tensor
    weight_VD: Tensor
    bias_V: Tensor

    def add(
        self, start: int, gradient_CV: Tensor, scaled_hidden_CD: Tensor, weight_VD: Tensor
    ) -> None:
        """Adds those of a chunk of examples; the first chunk writes over what is there.

        Args:
            start: Number of the chunk's first example.
            gradient_CV: Over the chunk's logits.
            scaled_hidden_CD: The chunk's hidden states, times what `weight_VD` is scaled by.
            weight_VD: Of the output layer, in the precision to multiply in.
        """
        keep, ones_C = int(start > 0), gradient_CV.new_ones(len(gradient_CV))
        self.bias_V.addmv_(gradient_CV.T, ones_C, beta=keep)
        gradient_CV = gradient_CV.to(weight_VD.dtype)
        self.hidden_ND[start : start + len(gradient_CV)] = gradient_CV @ weight_VD
        if weight_VD.dtype == self.weight_VD.dtype:
            self.weight_VD.addmm_(gradient_CV.T, scaled_hidden_CD, beta=keep)
        elif keep:
            self.weight_VD.add_(gradient_CV.T @ scaled_hidden_CD)
        else:
            self.weight_VD.copy_(gradient_CV.T @ scaled_hidden_CD)


def _log_softmax(hidden_CD: Tensor, weight_VD: Tensor, bias_V: Tensor) -> Tensor:
    """log p [C, V + 1], in the precision of the biases."""
    if hidden_CD.dtype == bias_V.dtype:
        logits_CV = torch.addmm(bias_V, hidden_CD, weight_VD.T)
    else:
        logits_CV = (hidden_CD @ weight_VD.T).to(bias_V.dtype).add_(bias_V)
    return torch.log_softmax(logits_CV, 1, out=logits_CV)


def rows_at_once(weight_VD: Tensor, budget_mb: int) -> int:
    """Examples whose logits, with one more array of their size, keep within the budget.

    A budget of 0 is that of the weights themselves, through all of which every chunk goes, and
    `LEAST_BUDGET_MB` where they are smaller.
    """
    budget = budget_mb * 2**20 or max(weight_VD.nbytes, LEAST_BUDGET_MB * 2**20)
    return max(1, budget // (2 * len(weight_VD) * weight_VD.element_size()))


def _scaled_rest(log_p_CV: Tensor, log_rest_C: Tensor, scale_C: Tensor) -> Tensor:
    """p̂ · scale [C, V + 1] in the place of log p, right for all but the observed item.

    As p times scale / (1 - p_y), which saves a pass; where 1 - p_y leaves the range of floats,
    in few rows if any, by the difference of logarithms.
    """
    is_tiny_C = log_rest_C < SMALLEST_LOG_REST
    for rows in _pieces(is_tiny_C):
        log_p_CV[rows] -= log_rest_C[rows, None]
    factor_C = torch.where(is_tiny_C, 1.0, log_rest_C.clamp_min(SMALLEST_LOG_REST).neg().exp())
    return log_p_CV.exp_().mul_((scale_C * factor_C)[:, None])


def _log_rest(log_p_CV: Tensor, targets_C1: Tensor, log_p_C: Tensor) -> Tensor:
    """log(1 - p_y), [C], precise for p_y near 1 too.

    1 - p_y loses no digits below one half. Above it, it would be the difference of nearly equal
    numbers: for those rows, few in practice, the other items' mass is summed itself.
    """
    log_rest_C = torch.log1p(-log_p_C.exp())
    for rows in _pieces(log_p_C > -math.log(2)):
        targets, log_p = targets_C1[rows], log_p_CV[rows]
        own = log_p.gather(1, targets)[:, 0]
        log_others = log_p.scatter_(1, targets, -torch.inf).logsumexp(1)
        log_rest_C[rows] = F.logsigmoid(log_others - own)
    return log_rest_C.clamp_min(torch.finfo(log_rest_C.dtype).min / 4)  # a catalogue of one item


def _pieces(is_chosen_C: Tensor) -> tuple[Tensor, ...]:
    """Numbers of the chosen rows, so few at once that copies of them are small beside all."""
    (rows,) = is_chosen_C.nonzero(as_tuple=True)
    return rows.split(max(1, len(is_chosen_C) // PIECES)) if len(rows) else ()
