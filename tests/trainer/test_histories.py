import numpy as np
import pyarrow as pa
import pytest

from trainer.histories import from_lists, split

SEQUENCES = pa.table(
    {
        "item_indices": pa.array([[1, 2, 2, 3], [4], [3, 1]], pa.list_(pa.int32())),
        "num_holdout": pa.array([2, 0, 1], pa.int32()),
    }
)


@pytest.fixture
def before():
    return split(SEQUENCES)[0]


def of_users(histories):
    users, items = histories.positions()
    return [items[users == user].tolist() for user in range(len(histories))]


def test_a_sequence_is_split_at_its_holdout():
    before, holdout = split(SEQUENCES)
    assert of_users(before) == [[1, 2], [4], [3]]
    assert of_users(holdout) == [[2, 3], [], [1]]


def test_split_reads_a_table_of_several_chunks():
    before, _ = split(pa.concat_tables([SEQUENCES.slice(0, 1), SEQUENCES.slice(1)]))
    assert of_users(before) == [[1, 2], [4], [3]]


def test_counts_say_how_often_each_user_acted_on_each_item():
    counts = from_lists([np.array([1, 2, 2]), np.array([], dtype=np.int64)]).counts(3)
    assert counts.toarray().tolist() == [[0, 1, 2, 0], [0, 0, 0, 0]]


def test_taking_users_keeps_their_order(before):
    assert of_users(before.take(np.array([2, 0]))) == [[3], [1, 2]]


def test_renumbering_drops_items_without_a_new_index(before):
    new_index = np.array([0, 7, 0, 9, 0])
    assert of_users(before.renumbered(new_index)) == [[7], [], [9]]


def test_the_last_positions_are_padded_on_the_right():
    items, lengths = from_lists([np.array([5, 6, 7]), np.array([8]), np.array([])]).last(2)
    assert items.tolist() == [[6, 7], [8, 0], [0, 0]]
    assert lengths.tolist() == [2, 1, 0]
