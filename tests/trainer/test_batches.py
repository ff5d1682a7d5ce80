import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.contract import TIMESTAMP
from schemas.errors import DataError
from schemas.settings import TrainingSettings
from trainer.actions import Actions, target_counts, training_actions
from trainer.batches import TrainingWindows
from trainer.histories import from_lists
from trainer.soft_targets import no_soft_targets

NUM_ITEMS = 9


def windows_of(histories, **changes):
    made_with = TrainingSettings(**{"max_length": 3, "batch_size": 2, "targets": "all"} | changes)
    by_user = from_lists(histories)
    actions = Actions(by_user, np.zeros(len(by_user.items), dtype=np.int64))
    return TrainingWindows([actions], no_soft_targets(NUM_ITEMS), made_with)


def windows_of_chunks(histories, sizes, **changes):
    """As `windows_of`, from several chunks of users."""
    made_with = TrainingSettings(**{"max_length": 3, "batch_size": 2, "targets": "all"} | changes)
    chunks, first = [], 0
    for size in sizes:
        by_user = from_lists(histories[first : first + size])
        chunks.append(Actions(by_user, np.zeros(len(by_user.items), dtype=np.int64)))
        first += size
    return TrainingWindows(chunks, no_soft_targets(NUM_ITEMS), made_with)


def examples_of(windows, epoch=1):
    """Every example of an epoch: the inputs up to its position, and its target."""
    found = []
    for batch in windows.epoch(epoch):
        length = batch.items_BL.shape[1]
        for position, target in zip(batch.positions_N, batch.examples.targets_N, strict=True):
            row, column = divmod(int(position), length)
            found.append((batch.items_BL[row, : column + 1].tolist(), int(target)))
    return sorted(found)


def test_a_history_is_cut_from_the_end_into_windows_that_share_one_position():
    windows = windows_of([[1, 2, 3, 4, 5, 6]])
    assert examples_of(windows) == [
        ([1], 2), ([1, 2], 3), ([3], 4), ([3, 4], 5), ([3, 4, 5], 6),
    ]  # fmt: skip


def test_the_last_window_of_a_long_history_is_full():
    (batch,) = windows_of([[1, 2, 3, 4, 5, 6]]).epoch(1)
    assert batch.items_BL.tolist() in ([[1, 2, 0], [3, 4, 5]], [[3, 4, 5], [1, 2, 0]])


def test_only_new_items_count_where_targets_are_new():
    windows = windows_of([[1, 2, 1, 3, 2, 4]], targets="new")
    assert [target for _, target in examples_of(windows)] == [2, 3, 4]


def test_a_repeat_from_an_earlier_window_does_not_count_as_new():
    windows = windows_of([[7, 1, 2, 3, 7, 4]], targets="new", max_length=2)
    assert sorted(target for _, target in examples_of(windows)) == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("targets", "days", "counts"),
    [
        ("all", 0, [0, 3, 2, 1]),
        ("new", 0, [0, 2, 1, 1]),
        ("all", 2, [0, 1, 1, 1]),
        ("new", 2, [0, 0, 0, 1]),
    ],
)
def test_target_counts_are_recent_actions_or_recent_first_actions(targets, days, counts):
    times = np.array([0, DAY, 2 * DAY, 3 * DAY, 0, 3 * DAY])
    actions = Actions(from_lists([[1, 2, 1, 2], [1, 3]]), times)
    made_with = TrainingSettings(targets=targets, popularity_days=days)
    assert target_counts(lambda: [actions], made_with, num_items=3).tolist() == counts


@pytest.mark.parametrize("histories", [[[1], [2]], [[1, 1, 1]]])
def test_op15_nothing_to_train_on_is_an_error(histories):
    with pytest.raises(DataError, match="no training target"):
        windows_of(histories, targets="new")


lists = st.lists(st.lists(st.integers(1, NUM_ITEMS), min_size=1, max_size=12), min_size=1)


@settings(deadline=None, derandomize=True)
@given(lists.filter(lambda h: any(len(x) > 1 for x in h)), st.integers(2, 4), st.integers(1, 3))
def test_every_position_but_the_first_is_a_target_exactly_once(histories, length, size):
    windows = windows_of(histories, max_length=length, batch_size=size)
    expected = []
    for history in histories:
        for t in range(1, len(history)):
            windows_after = (len(history) - 1 - t) // length
            start = max(0, len(history) - 1 - (windows_after + 1) * length)
            expected.append((history[start:t], history[t]))
    assert examples_of(windows) == sorted(expected)


@settings(deadline=None, derandomize=True)
@given(lists.filter(lambda h: any(len(set(x)) > 1 for x in h)))
def test_new_targets_are_each_users_first_occurrences(histories):
    windows = windows_of(histories, targets="new")
    expected = [x for h in histories for t, x in enumerate(h) if t and x not in h[:t]]
    assert sorted(target for _, target in examples_of(windows)) == sorted(expected)


MANY = [[1 + (u + t) % NUM_ITEMS for t in range(2 + u % 5)] for u in range(40)]


def inputs_of(windows, epoch, first_batch=0):
    return [b.items_BL.tolist() for b in windows.epoch(epoch, first_batch)]


def test_an_epoch_has_the_same_order_every_time_and_another_than_the_next():
    assert inputs_of(windows_of(MANY), 1) == inputs_of(windows_of(MANY), 1)
    assert inputs_of(windows_of(MANY), 1) != inputs_of(windows_of(MANY), 2)


def test_a_batch_has_windows_of_like_length_so_that_little_of_it_is_padding():
    lengths = np.random.default_rng(5).integers(2, 60, 800)
    windows = windows_of([[1] * n for n in lengths], max_length=60, batch_size=16)
    filled = [(batch.items_BL != 0).float().mean().item() for batch in windows.epoch(1)]
    assert len(filled) == 50
    assert np.mean(filled) > 0.8  # windows in any order fill half


def test_another_seed_gives_another_order():
    assert inputs_of(windows_of(MANY), 1) != inputs_of(windows_of(MANY, seed=1), 1)


def test_an_interrupted_epoch_continues_with_the_batches_that_were_left():
    windows = windows_of(MANY)
    assert inputs_of(windows, 3, first_batch=5) == inputs_of(windows, 3)[5:]


@pytest.mark.parametrize("sizes", [(1, 39), (13, 26, 1), (40,)])
@pytest.mark.parametrize("targets", ["all", "new"])
def test_chunks_of_users_make_the_windows_of_all(sizes, targets):
    chunked, whole = (
        windows_of_chunks(MANY, sizes, targets=targets),
        windows_of(MANY, targets=targets),
    )
    assert inputs_of(chunked, 1) == inputs_of(whole, 1)
    assert examples_of(chunked) == examples_of(whole)
    assert chunked.users.tolist() == whole.users.tolist()


def test_ranks_share_every_batch_without_overlap():
    """Histories of one pair each, so that a window's input is who it belongs to."""
    windows = windows_of([[u, 9] for u in range(1, 9)], batch_size=3)
    shares = [[b.items_BL[:, 0].tolist() for b in windows.epoch(2, 0, (r, 2))] for r in (0, 1)]
    whole = [b.items_BL[:, 0].tolist() for b in windows.epoch(2)]
    assert [sorted(a + b) for a, b in zip(*shares, strict=True)] == [sorted(b) for b in whole]
    assert sorted((len(a), len(b)) for a, b in zip(*shares, strict=True)) == [
        (1, 1),
        (2, 1),
        (2, 1),
    ]


def test_a_share_of_a_batch_smaller_than_the_ranks_is_empty():
    windows = windows_of([[1, 2]])
    (batch,) = windows.epoch(1, 0, (1, 2))
    assert len(batch.positions_N) == len(batch.examples.targets_N) == 0


def test_windows_count_all_positions_that_may_be_targets():
    windows = windows_of([[1, 2, 1], [2, 3]], targets="new")
    assert windows.target_counts(4).tolist() == [0, 1, 2, 1, 0]


def test_num_batches_counts_the_batches_of_an_epoch():
    windows = windows_of(MANY)
    assert windows.num_batches == len(inputs_of(windows, 1))


def test_positions_are_ascending_and_never_padding():
    for batch in windows_of(MANY).epoch(1):
        assert (batch.positions_N.diff() > 0).all()
        assert (batch.items_BL.flatten()[batch.positions_N] > 0).all()
        assert batch.items_BL.dtype == torch.int64


DAY = 86_400_000_000


def windows_of_days(histories, days, **changes):
    """Windows with one target per timestamp, drawn from the following two days."""
    made_with = TrainingSettings(
        **{"max_length": 8, "batch_size": 2, "targets": "all", "target_days": 2} | changes
    )
    times = np.array([day * DAY for of_user in days for day in of_user], dtype=np.int64)
    actions = Actions(from_lists(histories), times)
    return TrainingWindows([actions], no_soft_targets(NUM_ITEMS), made_with)


def targets_by_inputs(windows, num_epochs=60):
    found = {}
    for epoch in range(num_epochs):
        for inputs, target in examples_of(windows, epoch):
            found.setdefault(tuple(inputs), set()).add(target)
    return found


def test_targets_are_drawn_from_the_following_days():
    windows = windows_of_days([[1, 2, 3, 4, 5], [6, 7]], [[0, 1, 2, 3, 9], [0, 1]])
    assert targets_by_inputs(windows) == {
        (1,): {2, 3},
        (1, 2): {3, 4},
        (1, 2, 3): {4},
        (6,): {7},
    }


def test_days_without_end_reach_to_the_end_of_the_users_own_history():
    histories, days = [[1, 2, 3], [4, 5]], [[0, 1, 40_000], [7, 8]]
    windows = windows_of_days(histories, days, target_days=1e9)
    assert targets_by_inputs(windows) == {(1,): {2, 3}, (1, 2): {3}, (4,): {5}}


def test_only_the_last_position_of_a_timestamp_has_a_target():
    windows = windows_of_days([[1, 2, 3, 4]], [[0, 0, 1, 1]])
    assert targets_by_inputs(windows) == {(1, 2): {3, 4}}


def test_drawn_targets_are_new_to_the_user_where_targets_are_new():
    windows = windows_of_days([[1, 2, 1, 3]], [[0, 1, 2, 2]], targets="new")
    assert targets_by_inputs(windows) == {(1,): {2, 3}, (1, 2): {3}}


def test_drawn_targets_depend_on_seed_and_epoch_alone():
    windows = windows_of_days([[1, 2, 3, 4, 5]], [[0, 1, 1, 2, 2]])
    assert examples_of(windows, 1) == examples_of(windows, 1)
    assert len({str(examples_of(windows, epoch)) for epoch in range(20)}) > 1


def test_only_training_positions_are_taken_from_sequences():
    held_out, a_day = 9, 86_400_000_000
    sequences = pa.table(
        {
            "item_indices": pa.array([[1, 2, held_out, held_out], [3, 4, held_out]]),
            "event_times": pa.array([[0, a_day, a_day, a_day], [0, 1, 2]], pa.list_(TIMESTAMP)),
            "num_train": pa.array([2, 2], pa.int32()),
        }
    )
    actions = training_actions(sequences)
    assert actions.histories.positions()[1].tolist() == [1, 2, 3, 4]
    assert actions.times_P.tolist() == [0, DAY, 0, 1]
