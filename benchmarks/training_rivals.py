"""Training rivals: losses and ranks as their formulas say, over the whole catalogue at once.

Written as one would first, with what torch brings: autograd, dense arrays and a sort.

    N examples, B users, D width, V items (columns 0..V, column 0 is padding)
"""

import numpy as np
import torch
import torch.nn.functional as F
from scipy import sparse
from torch import Tensor

from schemas.settings import TrainingSettings
from trainer.examples import Examples, Output
from trainer.metrics import metrics_of_ranks
from trainer.ranking import exclude, rows_of

SMALLEST = 1e-12
"""Added before a logarithm of what may be 0, as the paper's authors do."""


def dense_decoupled(
    hidden_ND: Tensor, output: Output, examples: Examples, settings: TrainingSettings
) -> Tensor:
    """λ2 · BCE(p_y, c) + (1-λ2) · KL(q̂ ‖ p̂) with p, q and one-hot as dense N × V arrays.

    Formula and order of operations of arXiv 2410.06536 and its authors' code; the observed item
    is masked out instead of gathered away, which is faster.
    """
    p_NV = _logits(hidden_ND, output).softmax(1)
    targets_N1 = examples.targets_N[:, None]
    q_NV = torch.zeros_like(p_NV).scatter_add(1, examples.items_NK, examples.masses_NK)
    q_NV = q_NV.scatter(1, targets_N1, examples.target_masses_N[:, None])
    is_other_NV = torch.ones_like(p_NV).scatter(1, targets_N1, 0.0)
    p_N, q_N = (array.gather(1, targets_N1)[:, 0] for array in (p_NV, q_NV))
    others_NV, soft_NV = p_NV * is_other_NV, q_NV * is_other_NV
    p_hat_NV = others_NV / others_NV.sum(1, keepdim=True)
    q_hat_NV = soft_NV / soft_NV.sum(1, keepdim=True)
    aims_N = settings.lambda1 * q_N + 1 - settings.lambda1
    bce = -(aims_N * p_N.log() + (1 - aims_N) * (1 - p_N + SMALLEST).log()).mean()
    kl = F.kl_div((p_hat_NV + SMALLEST).log(), q_hat_NV, reduction="batchmean")
    return settings.lambda2 * bce + (1 - settings.lambda2) * kl


def plain_cross_entropy(
    hidden_ND: Tensor, output: Output, examples: Examples, settings: TrainingSettings
) -> Tensor:
    """torch's own cross-entropy on the logits of all examples."""
    return F.cross_entropy(_logits(hidden_ND, output), examples.targets_N)


def metrics_by_sorting(
    scores_BV: Tensor, relevant_BV: sparse.csr_matrix, excluded_BV: sparse.csr_matrix
) -> dict[str, np.ndarray]:
    """What `trainer.metrics.user_metrics` gives, with ranks from a sort of all scores."""
    of_pairs = ranks_by_sorting(exclude(scores_BV, excluded_BV), relevant_BV)
    return metrics_of_ranks(of_pairs, relevant_BV)


def ranks_by_sorting(scores_BV: Tensor, relevant_BV: sparse.csr_matrix) -> np.ndarray:
    """Places of relevant items in the order of all scores, from 0; ties fall as they fall. [N]."""
    order_BV = scores_BV.argsort(dim=1, descending=True)
    places_BV = torch.empty_like(order_BV)
    places_BV.scatter_(1, order_BV, torch.arange(order_BV.shape[1]).expand_as(order_BV))
    rows = torch.from_numpy(rows_of(relevant_BV))
    columns = torch.from_numpy(relevant_BV.indices.astype(np.int64))
    return places_BV[rows, columns].double().numpy()


def _logits(hidden_ND: Tensor, output: Output) -> Tensor:
    return torch.addmm(output.bias_V, hidden_ND, output.weight_VD.T)
