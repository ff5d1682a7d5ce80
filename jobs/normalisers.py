"""Normalisers: from the summed weight of a pair to the weight of an edge, compiled.

A new one is a function here with its formula, its line in `NORMALISERS`, its name in
`ItemGraphSettings.normaliser`, and, where it needs more about single items than `ItemWeights`
holds, a field there that `jobs/positions.py` counts.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Indices = NDArray[np.int32]

BM25_K1 = 1.2
"""How soon BM25 saturates: a pair weight of k1 in an item of mean size has half its limit."""

BM25_B = 0.75
"""How far BM25 holds an item's size against it, from 0, not at all, to 1."""


class ItemWeights(NamedTuple):
    """What a normaliser may know about single items; vectors of V + 1, by `item_index`.

    With e_p = exp(-age_p / 2τ), the ageing of one of a user's n_u actions:

    `own` is m(i) = Σ_u a(n_u) (Σ_{p: x_p = i} e_p)², the weight with which an item meets itself:
    without damping and ageing, the sum over users of its squared count.

    `frequency` is f(i) = Σ_u √a(n_u) Σ_{p: x_p = i} e_p: without damping and ageing, the number
    of actions on the item. Of binary data, own weight and frequency are both its number of users.

    `num_users` is N, the number of users with a training history.

    `share` is the weight of all pairs within the window over that of whole histories with γ = 1,
    half of it where edges lead forward only: what is left of the pairs of two items on average
    (`jobs.pair_counts.counted_share`).
    """

    own: Floats
    frequency: Floats
    num_users: int
    share: float = 1.0


Normaliser = Callable[[Floats, Indices, Indices, ItemWeights], Floats]
"""(pair weights, items, neighbours, item weights), vectors of E edges, to E edge weights ≥ 0."""


@njit(cache=True, error_model="numpy")
def _ratio(numerator, denominator):  # type: ignore[no-untyped-def]
    """Their quotient; 0 where the denominator is 0."""
    return numerator / denominator if denominator > 0 else 0.0


@njit(cache=True)
def raw(pair_weight, item, neighbour, weights):  # type: ignore[no-untyped-def]
    """w(i,j) as it is."""
    return pair_weight


@njit(cache=True, error_model="numpy")
def cosine(pair_weight, item, neighbour, weights):  # type: ignore[no-untyped-def]
    """w(i,j) / √(m(i) m(j)); 0 where an item's own weight is too small to be counted.

    By Cauchy-Schwarz at most 1, which is enforced, as weights are counted in rounded units. Where
    the window covers whole histories, γ = 1 and nothing is damped or aged, it is the cosine between
    the columns of the user × item count matrix (Sarwar et al., Item-based collaborative filtering,
    WWW 2001, §3.1.1), since then w(i,j) = Σ_u c_ui c_uj and m(i) = Σ_u c_ui².
    """
    own, weight = weights.own, np.empty_like(pair_weight)
    for e in range(len(weight)):
        weight[e] = own[item[e]] * own[neighbour[e]]
    for e in range(len(weight)):  # a loop of its own has eight roots and quotients at once
        weight[e] = min(_ratio(pair_weight[e], np.sqrt(weight[e])), 1.0)
    return weight


@njit(cache=True)
def jaccard(pair_weight, item, neighbour, weights):  # type: ignore[no-untyped-def]
    """w(i,j) / (m(i) + m(j) - w(i,j)); 0 where an own weight is too small to be counted.

    Of binary data and whole histories it is the users of both items over the users of either
    (Jaccard, The distribution of the flora in the alpine zone, New Phytologist 11, 1912); of
    weights it is Tanimoto's generalisation. Since w(i,j) ≤ √(m(i) m(j)) ≤ (m(i) + m(j)) / 2, the
    denominator is at least w(i,j) and the result at most 1. Weights are counted in rounded
    units, so the bound is also enforced: else the lightest pairs could become the strongest.
    """
    own, weight = weights.own, np.empty_like(pair_weight)
    for e in range(len(weight)):
        left, right = own[item[e]], own[neighbour[e]]
        either = max(left + right - pair_weight[e], pair_weight[e])
        weight[e] = _ratio(pair_weight[e], either) if left > 0 and right > 0 else 0.0
    return weight


@njit(cache=True)
def lift(pair_weight, item, neighbour, weights):  # type: ignore[no-untyped-def]
    """N w(i,j) / (s f(i) f(j)), observed over expected; 0 where a frequency is too small.

    f(i) f(j) / N is the pair weight to expect of whole histories were users' weights on i
    independent of those on j, so 1 is chance (Brin et al., Dynamic itemset counting and
    implication rules for market basket data, SIGMOD 1997, where it is called interest). s is the
    share of it that window and γ count, 1 for whole histories. Rare items reach the highest ones,
    and all are higher where few users have most of the actions: those have many of everything.
    """
    frequency, weight = weights.frequency, np.empty_like(pair_weight)
    for e in range(len(weight)):
        independent = weights.share * frequency[item[e]] * frequency[neighbour[e]]
        weight[e] = _ratio(weights.num_users * pair_weight[e], independent)
    return weight


@njit(cache=True)
def pmi(pair_weight, item, neighbour, weights):  # type: ignore[no-untyped-def]
    """max(0, ln lift(i,j)), positive pointwise mutual information in nats.

    Church & Hanks, Word association norms, mutual information, and lexicography,
    Computational Linguistics 16(1), 1990; that negative values are cut off, since -∞ is the
    value of all that was never seen together, is from Levy & Goldberg, Neural word embedding as
    implicit matrix factorization, NIPS 2014.
    """
    return np.log(np.maximum(lift(pair_weight, item, neighbour, weights), 1.0))


@njit(cache=True)
def bm25(pair_weight, item, neighbour, weights):  # type: ignore[no-untyped-def]
    """idf(j) w(i,j) (k1 + 1) / (w(i,j) + k1 (1 - b + b m(i) / mean m)); 0 where no item weighs.

    Item i is the document, its neighbour j the term and w(i,j) the term's frequency in it
    (Robertson & Zaragoza, The probabilistic relevance framework: BM25 and beyond, Foundations
    and Trends in Information Retrieval 3(4), 2009). The mean is over items with
    m > 0. idf(j) = ln(1 + (N - f(j) + ½) / (f(j) + ½)) with f(j) at most N; the 1, which is not
    in the source, keeps it positive where more than half of the users have j.

    It is not symmetric, even of a symmetric graph: i → j discounts how common j is and how
    heavy i is, j → i the other way round.
    """
    own, weight = weights.own, np.zeros_like(pair_weight)
    occurring = own[own > 0]
    if not occurring.size:
        return weight
    frequency = np.minimum(weights.frequency, weights.num_users)
    idf = np.log1p((weights.num_users - frequency + 0.5) / (frequency + 0.5))
    size = 1 - BM25_B + BM25_B * own / occurring.mean()
    for e in range(len(weight)):
        saturation = pair_weight[e] + BM25_K1 * size[item[e]]
        weight[e] = idf[neighbour[e]] * pair_weight[e] * (BM25_K1 + 1) / saturation
    return weight


@njit(cache=True)
def shrink(pair_weight, weight, shrinkage):  # type: ignore[no-untyped-def]
    """weight · w / (w + shrinkage): the less two items meet, the less their weight is trusted.

    Bell & Koren, Scalable collaborative filtering with jointly derived neighborhood
    interpolation weights, ICDM 2007, there towards the mean; towards 0 as here in Koren,
    Factorization meets the neighborhood, KDD 2008.

    Args:
        pair_weight: w ≥ 0, vector of E edges.
        weight: Of the same edges, after a normaliser.
        shrinkage: Pair weight at which half of an edge's weight is left; 0 changes nothing.

    Returns:
        E edge weights; 0 where w is 0.
    """
    shrunk = np.empty_like(weight)
    for e in range(len(weight)):
        shrunk[e] = weight[e] * _ratio(pair_weight[e], pair_weight[e] + shrinkage)
    return shrunk


NORMALISERS: dict[str, Normaliser] = {
    "raw": raw,
    "cosine": cosine,
    "jaccard": jaccard,
    "lift": lift,
    "pmi": pmi,
    "bm25": bm25,
}
