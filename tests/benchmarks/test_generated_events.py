import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from benchmarks.generated_events import (
    ITEMS_PER_CLUSTER,
    LONGEST,
    SHORTEST,
    SPAN,
    START,
    World,
    draw_actions,
    generate,
    history_lengths,
    tastes,
)

WORLD = World(100_000, users_per_group=600)


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """Published items and sequences of a world of 2,000 users and 1,000 items."""
    return generate(tmp_path_factory.mktemp("bench"), WORLD)


def flat(column):
    return column.combine_chunks().flatten()


def test_a_world_has_as_many_interactions_users_and_items_as_it_says(tables):
    items, sequences = (partition.read() for partition in tables)
    assert (items.num_rows, sequences.num_rows) == (1_000, 2_000)
    assert len(flat(sequences["item_indices"])) == 100_000


def test_all_but_a_users_last_two_actions_train(tables):
    _, sequences = (partition.read() for partition in tables)
    lengths = pc.list_value_length(sequences["item_indices"])
    assert pc.subtract(lengths, 2).to_pylist() == sequences["num_train"].to_pylist()
    assert set(sequences["num_validation"].to_pylist()) == {1}
    assert set(sequences["num_holdout"].to_pylist()) == {1}


def test_times_never_decrease_and_lie_in_60_days(tables):
    _, sequences = (partition.read() for partition in tables)
    first = sequences["event_times"][0].as_py()
    assert first == sorted(first)
    times = flat(sequences["event_times"]).cast("int64").to_numpy()
    assert START <= times.min() < START + SPAN // 100
    assert START + SPAN * 99 // 100 < times.max() < START + SPAN


def test_support_counts_training_actions_only(tables):
    items, sequences = (partition.read() for partition in tables)
    counts = np.zeros(1_001, int)
    for row in sequences.to_pylist():
        np.add.at(counts, row["item_indices"][: row["num_train"]], 1)
    assert items["support"].to_pylist() == counts[1:].tolist()


def test_popularity_and_activity_have_long_tails(tables):
    support = np.sort(tables[0].read()["support"].to_numpy())[::-1]
    assert support[:10].sum() > 0.05 * support.sum()
    assert support[0] > 10 * np.median(support) > 0
    lengths = history_lengths(WORLD)
    assert SHORTEST <= lengths.min() < np.median(lengths) < lengths.mean() == 50
    assert 10 * 50 < lengths.max() <= LONGEST


def test_four_of_five_actions_come_from_a_users_three_clusters():
    taste = tastes(World(2_500_000))
    cluster_of = np.zeros(25_001, int)
    cluster_of[taste.item_at] = np.arange(25_000) // ITEMS_PER_CLUSTER
    items, _ = draw_actions(taste, np.full(50, 1_000), np.random.default_rng(5))
    clusters = cluster_of[items].reshape(50, 1_000)
    counts = np.sort([np.bincount(user, minlength=100) for user in clusters])
    assert counts[:, -3:].sum() / counts.sum() == pytest.approx(0.81, abs=0.02)


def test_row_groups_hold_as_many_users_as_asked_for(tables):
    file = pq.ParquetFile(tables[1].files[0])
    sizes = [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)]
    assert sizes == [600, 600, 600, 200]


def test_equal_worlds_have_equal_digests_and_another_seed_has_not(tables, tmp_path):
    def digests(partitions):
        return [p.manifest.content_digest for p in partitions]

    again = generate(tmp_path / "again", WORLD)
    other = generate(tmp_path / "other", World(100_000, seed=18, users_per_group=600))
    assert digests(again) == digests(tables)
    assert not set(digests(other)) & set(digests(tables))


def test_a_world_that_is_there_is_not_generated_again(tmp_path):
    small = World(1_000)
    runs = [[p.manifest.run for p in generate(tmp_path, small)] for _ in range(2)]
    assert runs[0] == runs[1]
    assert [p.manifest.run for p in generate(tmp_path, World(1_000, seed=1))] > runs[0]
