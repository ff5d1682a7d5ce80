import itertools
import shutil
from datetime import UTC, date, datetime, timedelta

import numpy as np
import pyarrow.parquet as pq
import pytest
from sklearn.metrics.pairwise import cosine_similarity

from jobs import item_graph, sequences
from jobs.item_graph import bucket_bounds, main
from schemas.errors import ContractError, DataError
from schemas.interactions import INTERACTIONS
from schemas.item_graph import ITEM_GRAPH
from schemas.items import ITEMS
from schemas.partitions import get, partition_path
from schemas.publishing import draft, new_token, publish
from schemas.sequences import SEQUENCES
from schemas.settings import Settings

NIGHT = datetime(2017, 10, 31, tzinfo=UTC)


def settings(spark=None, **item_graph):
    return Settings.model_validate({"item_graph": item_graph, "spark": spark or {}})


@pytest.fixture
def catalogue(publish_rows):
    def catalogue(num_items):
        row = {"support": 1, "first_seen": NIGHT, "last_seen": NIGHT}
        rows = [row | {"item_index": n, "item_id": f"i{n}"} for n in range(1, num_items + 1)]
        return publish_rows(ITEMS, rows)

    return catalogue


@pytest.fixture
def histories(publish_rows):
    """Publishes users' training histories; `held_out` items follow in every one of them."""

    def histories(users, held_out=()):
        rows = [
            {
                "user_id": f"u{n:05d}",
                "item_indices": [*items, *held_out],
                "event_times": [
                    NIGHT + timedelta(seconds=p) for p in range(len(items) + len(held_out))
                ],
                "num_train": len(items),
                "num_validation": 0,
                "num_holdout": len(held_out),
            }
            for n, items in enumerate(users)
        ]
        return publish_rows(SEQUENCES, rows)

    return histories


@pytest.fixture
def graph(spark, tmp_path, make_night):
    """Runs the stage with these settings; returns the published partition."""

    def graph(chosen=None, **item_graph):
        night = make_night(chosen or settings(**item_graph))
        main(night)
        return get(tmp_path, ITEM_GRAPH, night.ds)

    return graph


def edges(partition):
    return [tuple(row.values()) for row in partition.read().to_pylist()]


def random_users(num_users=60, num_items=12, seed=5):
    generator = np.random.default_rng(seed)
    lengths = generator.integers(1, 20, num_users)
    return [((generator.integers(0, num_items, n) ** 2) // num_items + 1).tolist() for n in lengths]


def test_the_graph_of_two_users_in_literal_numbers(catalogue, histories, graph):
    catalogue(4)
    histories([[1, 2, 3], [2, 1]])
    found = edges(graph(window=2, position_decay=0.5))
    half, two = 0.5 / 2**0.5, 2 / 2
    assert found == [
        (1, 2, 2.0, pytest.approx(two)),
        (1, 3, 0.5, pytest.approx(half)),
        (2, 1, 2.0, pytest.approx(two)),
        (2, 3, 1.0, pytest.approx(1 / 2**0.5)),
        (3, 1, 0.5, pytest.approx(half)),
        (3, 2, 1.0, pytest.approx(1 / 2**0.5)),
    ]


def test_a_window_beyond_every_history_takes_no_room_and_is_the_whole_history(
    catalogue, histories, graph
):
    catalogue(3)
    histories([[1, 2, 3], [2, 1]])
    whole = edges(graph(window=2, position_decay=0.5))
    assert edges(graph(window=10**12, position_decay=0.5)) == whole


def test_a_forward_graph_leads_from_the_earlier_item_to_the_later(catalogue, histories, graph):
    catalogue(3)
    histories([[1, 2, 3], [2, 1]])
    found = edges(graph(direction="forward", normaliser="raw", window=1))
    assert found == [(1, 2, 1.0, 1.0), (2, 1, 1.0, 1.0), (2, 3, 1.0, 1.0)]


def test_cosine_of_whole_histories_equals_scikit_learn(catalogue, histories, graph):
    users = random_users()
    catalogue(12)
    histories(users)
    counts = np.zeros((len(users), 13))
    for row, items in enumerate(users):
        np.add.at(counts[row], items, 1)
    expected = cosine_similarity(counts.T) * (1 - np.eye(13))
    found = np.zeros((13, 13))
    for item, neighbour, _, weight in edges(graph(window=100, position_decay=1.0)):
        found[item, neighbour] = weight
    np.testing.assert_allclose(found, expected, atol=1e-9)


def test_older_pairs_weigh_less_where_time_decays(catalogue, histories, graph):
    catalogue(2)
    histories([[1, 2]])
    ((_, _, weight, _), _) = edges(graph(time_decay_days=1.0))
    mean_age_days = 1 - 0.5 / 86_400
    assert weight == pytest.approx(np.exp(-mean_age_days), abs=1e-9)


def test_time_that_leaves_nothing_of_any_pair_is_an_error_that_names_the_setting(
    catalogue, histories, graph
):
    catalogue(2)
    histories([[1, 2]])
    with pytest.raises(DataError, match=r"time_decay_days = 0\.04; .* raise item_graph\.time_dec"):
        graph(time_decay_days=0.04)


def oracle(users, num_items, kind):
    """w, m and f of users' histories by their definitions; w and m are of symmetric graphs."""
    w, m, f = np.zeros((num_items + 1,) * 2), np.zeros(num_items + 1), np.zeros(num_items + 1)
    for items in users:
        damping = len(items) ** -kind["user_damping"]
        ages = [(86_400 - p) / 86_400 for p in range(len(items))]
        tau = kind["time_decay_days"] or np.inf
        for p, q in itertools.combinations(range(len(items)), 2):
            if q - p <= kind["window"] and items[p] != items[q]:
                age = (ages[p] + ages[q]) / 2
                weight = damping * kind["position_decay"] ** (q - p - 1) * np.exp(-age / tau)
                w[items[p], items[q]] += weight
                w[items[q], items[p]] += weight
        own = np.zeros(num_items + 1)
        for item, age in zip(items, ages, strict=True):
            own[item] += np.exp(-age / 2 / tau)
        m += damping * own**2
        f += damping**0.5 * own
    return w, m, f


DENSE = {
    "raw": lambda w, m, f, num_users, share: w,
    "cosine": lambda w, m, f, num_users, share: w / np.sqrt(np.outer(m, m)),
    "jaccard": lambda w, m, f, num_users, share: w / (m[:, None] + m - w),
    "lift": lambda w, m, f, num_users, share: num_users * w / np.outer(f, f) / share,
    "pmi": lambda w, m, f, num_users, share: np.log(
        np.maximum(num_users * w / np.outer(f, f) / share, 1)
    ),
    "bm25": lambda w, m, f, num_users, share: (
        np.log1p((num_users - np.minimum(f, num_users) + 0.5) / (np.minimum(f, num_users) + 0.5))
        * w * 2.2 / (w + 1.2 * (0.25 + 0.75 * m[:, None] / m[m > 0].mean()))
    ),
}  # fmt: skip


@pytest.mark.parametrize("normaliser", DENSE)
def test_a_stages_weights_are_those_of_the_dense_formulas(catalogue, histories, graph, normaliser):
    users = random_users(num_items=6)  # of two tastes, so that some pairs are no chance
    users = [[x + 6 * (n % 2) for x in items] for n, items in enumerate(users)]
    catalogue(12)
    histories(users)
    for damping, decay in ((0.0, 0.0), (0.7, 0.5)):
        kind = {"window": 9, "position_decay": 0.9}
        kind |= {"user_damping": damping, "time_decay_days": decay}
        w, m, f = (values[1:, ...] for values in oracle(users, 12, kind))
        apart = [
            (q - p, len(x) ** -damping)
            for x in users
            for p, q in itertools.combinations(range(len(x)), 2)
        ]
        share = sum(a * 0.9 ** (d - 1) for d, a in apart if d <= 9) / sum(a for _, a in apart)
        with np.errstate(invalid="ignore"):  # of items that nobody has: 0 / 0
            expected = np.nan_to_num(DENSE[normaliser](w[:, 1:], m, f, len(users), share))
        found, pairs = np.zeros((12, 12)), np.zeros((12, 12))
        for item, neighbour, pair, weight in edges(graph(normaliser=normaliser, **kind)):
            pairs[item - 1, neighbour - 1], found[item - 1, neighbour - 1] = pair, weight
        np.testing.assert_allclose(pairs, np.where(expected > 0, w[:, 1:], 0), atol=1e-6)
        np.testing.assert_allclose(found, expected, atol=1e-6)
        assert (found > 0).sum() > 9


def test_actions_after_num_train_change_nothing(catalogue, histories, graph):
    users = random_users()
    catalogue(12)
    histories(users)
    before = graph().manifest.content_digest
    histories(users, held_out=[1, 2, 3, 4, 5])
    assert graph().manifest.content_digest == before


def test_an_item_keeps_its_top_k_and_ties_go_to_the_smaller_index(catalogue, histories, graph):
    catalogue(5)
    histories([[1, 5], [1, 4], [1, 3], [1, 2], [1, 2]])
    found = edges(graph(normaliser="raw", top_k=2))
    assert [(i, j) for i, j, _, _ in found] == [(1, 2), (1, 3), (2, 1), (3, 1), (4, 1), (5, 1)]


def test_pairs_below_min_pair_weight_are_dropped(catalogue, histories, graph):
    catalogue(3)
    histories([[1, 2], [1, 2], [1, 3]])
    assert [(i, j) for i, j, _, _ in edges(graph(min_pair_weight=2.0))] == [(1, 2), (2, 1)]


def test_the_manifest_says_how_much_was_counted(catalogue, histories, graph):
    catalogue(5)
    histories([[1, 2, 3], [4]])
    notes = graph(window=1).manifest.notes
    assert notes["position_pairs"] == 2
    assert (notes["edges"], notes["max_degree"]) == (4, 2)
    assert (notes["items_with_edges"], notes["items_without"]) == (3, 2)
    assert (notes["longest_history"], notes["most_actions_of_an_item"]) == (3, 1)
    assert notes["shuffled_bytes"] == 0
    assert notes["seconds"].keys() == {"budget", "start_spark", "positions", "pairs"}


def test_op15_pairs_of_which_no_edge_is_left_name_the_settings(catalogue, histories, graph):
    catalogue(2)
    histories([[1, 2], [1, 2]])
    expected = r"no edge from 2 pairs of items; .*min_pair_weight \(now 9\), or .* than cosine"
    with pytest.raises(DataError, match=expected):
        graph(min_pair_weight=9.0)


def test_limits_beyond_every_history_and_catalogue_take_no_memory(catalogue, histories, graph):
    catalogue(3)
    histories([[1, 2, 3], [1, 2]])
    expected = graph().manifest.content_digest
    assert graph(top_k=10**19, window=10**19).manifest.content_digest == expected


@pytest.mark.parametrize("direction", ["symmetric", "forward"])
def test_pmi_keeps_what_is_bought_together_however_narrow_the_window(
    catalogue, histories, graph, direction
):
    """Two tastes of six items each: pairs of one taste meet twice as often as by chance."""
    generator = np.random.default_rng(3)
    users = [list(1 + 6 * (n % 2) + generator.integers(0, 6, 60)) for n in range(40)]
    users = [[int(item) for item in user] for user in users]
    catalogue(12)
    histories(users)
    kept = edges(graph(normaliser="pmi", window=3, direction=direction))
    assert {(i - 1) // 6 == (j - 1) // 6 for i, j, _, _ in kept} == {True}
    weights = [weight for _, _, _, weight in kept]
    assert len(weights) == 60 and np.mean(weights) == pytest.approx(np.log(2), abs=0.05)


def test_op15_histories_without_a_pair_publish_no_graph(catalogue, histories, graph):
    catalogue(2)
    histories([[1], [2, 2]])
    with pytest.raises(ContractError, match="no row for item_graph"):
        graph()


def test_an_item_beyond_the_catalogue_is_an_error_that_names_it(catalogue, histories, graph):
    catalogue(2)
    histories([[1, 3]])
    with pytest.raises(DataError, match="item_index 3 in sequences of 2017-10-31"):
        graph()


def test_op19_a_user_with_100_times_the_median_history_stays_within_the_budget(
    publish_rows, make_night, catalogue, graph
):
    lengths = [20] * 10 + [2000]
    actions = [
        {
            "user_id": f"u{user:02d}",
            "item_id": f"i{position % 7 + 1}",
            "event_time": NIGHT + timedelta(seconds=position),
            "event_type": "",
            "weight": 1.0,
        }
        for user, length in enumerate(lengths)
        for position in range(length)
    ]
    publish_rows(INTERACTIONS, actions)
    catalogue(7)
    capped = {"split": {"protocol": "leave_one_out"}, "sequences": {"max_history": 100}}
    budget = {"item_graph": {"window": 10, "pair_budget": len(lengths) * 100 * 10}}
    chosen = Settings.model_validate(capped | budget)
    sequences.main(make_night(chosen))
    notes = graph(chosen).manifest.notes
    assert notes["items_with_edges"] == 7
    assert notes["position_pairs"] < budget["item_graph"]["pair_budget"] < 2000 * 10


def test_op20_ranges_of_items_and_row_groups_do_not_change_the_digest(
    catalogue, histories, graph, monkeypatch, tmp_path
):
    catalogue(12)
    sequences = histories(random_users())
    kind = {"user_damping": 0.7, "time_decay_days": 0.3, "top_k": 5}
    expected = graph(**kind)
    monkeypatch.setattr(item_graph, "POSITIONS_PER_BUCKET", 30)
    run = draft(tmp_path, SEQUENCES, date(2017, 10, 31), new_token())
    pq.write_table(sequences.read(), run.path / "part-00000.parquet", row_group_size=7)
    publish(run, date(2017, 10, 31))
    found = graph(**kind)
    assert len(found.files) > len(expected.files)
    assert found.manifest.content_digest == expected.manifest.content_digest


def test_nights_that_are_made_in_another_order_have_the_same_graphs(
    catalogue, histories, publish_rows, make_night, spark, tmp_path
):
    catalogue(12)
    sequences = histories(random_users()).read().to_pylist()
    nights = [NIGHT.date(), NIGHT.date() + timedelta(days=1)]
    items = get(tmp_path, ITEMS, nights[0]).read().to_pylist()
    publish_rows(ITEMS, items, nights[1])
    publish_rows(SEQUENCES, sequences[:40], nights[1])
    found = []
    for order in (nights, nights[::-1]):
        shutil.rmtree(tmp_path / "tables" / "item_graph", ignore_errors=True)
        for ds in order:
            main(make_night(Settings(), ds))
        found.append([get(tmp_path, ITEM_GRAPH, ds).manifest.content_digest for ds in nights])
    assert found[0] == found[1] and found[0][0] != found[0][1]


def test_buckets_hold_about_equal_actions_and_every_item():
    actions = np.array([0, 50, 1, 1, 1, 1, 46])
    assert bucket_bounds(actions, 2).tolist() == [1, 2, 7]
    assert bucket_bounds(actions, 1).tolist() == [1, 7]
    assert bucket_bounds(np.zeros(4, int), 3).tolist() == [1, 4, 4, 4]


def test_op19_too_many_pairs_fail_before_any_work_and_name_what_to_change(
    catalogue, histories, graph, tmp_path
):
    histories([[1, 2, 3, 4], [1, 2]])
    catalogue(4)
    message = (
        "found 6 position pairs .* longest training history has 4 actions; "
        r"expected at most item_graph\.pair_budget = 5; "
        r"fix: lower sequences\.max_history or item_graph\.window \(now 2\)"
    )
    with pytest.raises(DataError, match=message):
        graph(window=2, pair_budget=5)
    assert not partition_path(tmp_path, ITEM_GRAPH, date(2017, 10, 31)).exists()
