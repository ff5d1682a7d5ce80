"""Normalisers: from the summed weight of a pair to the weight of an edge.

A new one is a function here with its formula, its line in `NORMALISERS`, its name in
`ItemGraphSettings.normaliser`, and, where it needs more about single items than `ItemWeights`
holds, a field there that `jobs/pair_counts.py` counts.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Indices = NDArray[np.int32]


@dataclass(frozen=True)
class ItemWeights:
    """What a normaliser may know about single items; vectors of V + 1, by `item_index`.

    `own` is m(i) = Σ_u a(n_u) (Σ_{p: x_p = i} exp(-age_p / 2τ))², the weight with which an item
    meets itself: without damping and ageing, the sum over users of its squared count.
    """

    own: Floats


Normaliser = Callable[[Floats, Indices, Indices, ItemWeights], Floats]
"""(pair weights, items, neighbours, item weights), vectors of E edges, to E edge weights ≥ 0."""


def raw(pair_weight: Floats, item: Indices, neighbour: Indices, weights: ItemWeights) -> Floats:
    """w(i,j) as it is."""
    return pair_weight


def cosine(pair_weight: Floats, item: Indices, neighbour: Indices, weights: ItemWeights) -> Floats:
    """w(i,j) / √(m(i) m(j)); 0 where an item's own weight is too small to be counted.

    By Cauchy-Schwarz at most 1. Where the window covers whole histories, γ = 1 and nothing is
    damped or aged, it is the cosine between the columns of the user × item count matrix
    (Sarwar et al., Item-based collaborative filtering, WWW 2001, §3.1.1), since then
    w(i,j) = Σ_u c_ui c_uj and m(i) = Σ_u c_ui².
    """
    norm = np.sqrt(weights.own[item] * weights.own[neighbour])
    return np.divide(pair_weight, norm, out=np.zeros_like(norm), where=norm > 0)


NORMALISERS: dict[str, Normaliser] = {"raw": raw, "cosine": cosine}
