"""The normalisers on four weeks of real purchases, against other people's implementations."""

from datetime import date

import numpy as np
import pytest
from implicit.nearest_neighbours import CosineRecommender, bm25_weight
from implicit.utils import ParameterWarning
from scipy import sparse
from sklearn.metrics import mutual_info_score, pairwise_distances
from sklearn.metrics.cluster import contingency_matrix
from sklearn.metrics.pairwise import cosine_similarity

from demo.load_events import _purchases
from jobs.normalisers import BM25_B, BM25_K1, ItemWeights, bm25, cosine, jaccard, lift, pmi

MIN_SUPPORT = 10
EXACT = {"rtol": 1e-12, "atol": 0}


@pytest.fixture(scope="module")
def purchases():
    """bool [households, products]: who bought what, of products with `MIN_SUPPORT` households."""
    table = _purchases(date(2017, 10, 4), date(2017, 10, 31))
    names = ("user_id", "item_id")
    user, item = (table[name].combine_chunks().dictionary_encode().indices for name in names)
    bought = sparse.csc_array((np.ones(len(user), bool), (user.to_numpy(), item.to_numpy())))
    bought.sum_duplicates()
    return bought[:, np.diff(bought.indptr) >= MIN_SUPPORT].tocsr()


@pytest.fixture(scope="module")
def pairs(purchases):
    """Households in common of every two products that have any, and what is known of each."""
    counts = purchases.astype(float)
    together = (counts.T @ counts).tocoo()
    is_pair = together.row != together.col
    pair_weight, item, neighbour = (
        part[is_pair] for part in (together.data, together.row, together.col)
    )
    households = np.asarray(counts.sum(axis=0))
    weights = ItemWeights(households, households, num_users=counts.shape[0])
    return pair_weight, item.astype(np.int32), neighbour.astype(np.int32), weights


@pytest.fixture(scope="module")
def sample(pairs):
    """200 of the pairs, drawn at random."""
    chosen = np.random.default_rng(7).choice(len(pairs[0]), 200, replace=False)
    return *(part[chosen] for part in pairs[:3]), pairs[3]


def contingency_tables(purchases, sample):
    """Households that have neither (0, 0), one, or both (1, 1) products of each pair."""
    columns = purchases.T.toarray()
    tables = [contingency_matrix(columns[i], columns[j]) for i, j in zip(*sample[1:3], strict=True)]
    return np.array(tables, float)


def test_there_are_enough_purchases_to_compare(purchases, pairs):
    assert purchases.shape[0] > 2000
    assert purchases.shape[1] > 1500
    assert len(pairs[0]) > 900_000


def test_cosine_agrees_with_sklearn(purchases, pairs):
    expected = cosine_similarity(purchases.T.astype(float).toarray())
    np.testing.assert_allclose(cosine(*pairs), expected[pairs[1], pairs[2]], **EXACT)


def test_cosine_agrees_with_implicit(purchases, pairs):
    recommender = CosineRecommender(K=purchases.shape[1], num_threads=1)
    # `fit` makes a COO matrix of whatever it is given and then warns that it is none in CSR.
    with pytest.warns(ParameterWarning, match="expects CSR"):
        recommender.fit(sparse.csr_matrix(purchases.astype(float)), show_progress=False)
    expected = recommender.similarity.toarray()
    np.testing.assert_allclose(cosine(*pairs), expected[pairs[1], pairs[2]], **EXACT)


def test_jaccard_agrees_with_sklearn(purchases, pairs):
    pair_weight, item, neighbour, weights = pairs
    is_few = (item < 300) & (neighbour < 300)
    few = pair_weight[is_few], item[is_few], neighbour[is_few]
    distance = pairwise_distances(purchases[:, :300].T.toarray(), metric="jaccard")
    found = np.zeros((300, 300))
    found[few[1], few[2]] = jaccard(*few, weights)
    np.fill_diagonal(found, 1)
    np.testing.assert_allclose(found, 1 - distance, rtol=1e-12, atol=1e-15)


def test_lift_agrees_with_contingency_tables_of_sklearn(purchases, sample):
    tables = contingency_tables(purchases, sample)
    share = tables / tables.sum(axis=(1, 2), keepdims=True)
    expected = share[:, 1, 1] / (share[:, 1].sum(axis=1) * share[:, :, 1].sum(axis=1))
    np.testing.assert_allclose(lift(*sample), expected, **EXACT)


def test_pmi_agrees_with_contingency_tables_of_sklearn(purchases, sample):
    tables = contingency_tables(purchases, sample)
    both, of_item, of_neighbour = tables[:, 1, 1], tables[:, 1].sum(axis=1), tables[:, :, 1].sum(1)
    expected = np.log(both) + np.log(purchases.shape[0]) - np.log(of_item) - np.log(of_neighbour)
    assert (expected < 0).any()
    np.testing.assert_allclose(pmi(*sample), np.maximum(expected, 0), rtol=1e-9, atol=1e-12)


def test_mean_log_lift_is_the_mutual_information_of_sklearn(purchases, sample):
    """Buying and not buying a product as two items: the four lifts of a pair of products."""
    columns = purchases.T.toarray()
    for item, neighbour in zip(*sample[1:3], strict=True):
        either = np.vstack([~columns[item], columns[item], ~columns[neighbour], columns[neighbour]])
        households = either.sum(axis=1).astype(float)
        weights = ItemWeights(households, households, num_users=purchases.shape[0])
        left, right = np.array([0, 0, 1, 1], np.int32), np.array([2, 3, 2, 3], np.int32)
        together = (either[left] & either[right]).sum(axis=1).astype(float)
        log_lift = np.log(
            lift(together, left, right, weights), where=together > 0, out=together * 0
        )
        found = together @ log_lift / purchases.shape[0]
        expected = mutual_info_score(columns[item], columns[neighbour])
        assert found == pytest.approx(expected, rel=1e-9, abs=1e-14)


def test_bm25_agrees_with_implicit_but_for_the_idf(pairs):
    """implicit's documents are as long as their terms add up to, so a last term fills them up.

    Its idf counts documents where ours counts users: k1 = 0 leaves nothing but the idf, by
    which its weights are divided; ours are divided by their own formula. A last document of mean
    length keeps its idf from being 0, for there are products that meet all others.
    """
    pair_weight, item, neighbour, weights = pairs
    size = len(weights.own) + 1
    terms = sparse.coo_array((pair_weight, (item, neighbour)), shape=(size, size))
    lengths, own = terms.sum(axis=1), np.append(weights.own, weights.own.mean())
    rest = own * (lengths / own).max() - lengths
    documents = sparse.hstack([terms, sparse.coo_array(rest[:, None])], format="coo")
    idf = bm25_weight(documents, K1=0, B=0).tocsr()[item, neighbour]
    theirs = bm25_weight(documents, K1=BM25_K1, B=BM25_B).tocsr()[item, neighbour]
    have, have_not = weights.own[neighbour], weights.num_users - weights.own[neighbour]
    ours = bm25(*pairs) / np.log(1 + (have_not + 0.5) / (have + 0.5))
    np.testing.assert_allclose(ours, np.asarray(theirs / idf).ravel(), **EXACT)
