from datetime import UTC, date, datetime

import numpy as np
import pytest

from schemas.sequences import SEQUENCES
from trainer.sequences import Facts, Sequences

USERS = {
    "ann": ([1, 2, 3], 2, 1, 0),
    "bob": ([9, 4], 1, 0, 1),
    "cat": ([5, 6, 7], 1, 1, 1),
    "dan": ([8, 8, 8], 1, 2, 0),
}
"""Items; how many train, validate and are held out. An action a day from October 1st on."""


@pytest.fixture
def sequences(publish_rows):
    rows = [
        {
            "user_id": name,
            "item_indices": items,
            "event_times": [datetime(2017, 10, 1 + n, tzinfo=UTC) for n in range(len(items))],
            "num_train": train,
            "num_validation": validation,
            "num_holdout": held,
        }
        for name, (items, train, validation, held) in USERS.items()
    ]
    return Sequences(publish_rows(SEQUENCES, rows))


@pytest.fixture(params=[1, 2, 3, 4096])
def chunk(request, monkeypatch):
    """Users in memory at a time."""
    from schemas.partitions import Partition

    batches = Partition.batches
    monkeypatch.setattr(
        Partition, "batches", lambda self, columns: batches(self, columns, request.param)
    )
    return request.param


def test_actions_are_those_of_training_chunk_by_chunk(sequences, chunk):
    found = list(sequences.actions())
    assert len(found) == -(-len(USERS) // chunk)
    assert np.concatenate([a.histories.items for a in found]).tolist() == [1, 2, 9, 5, 8]
    assert np.concatenate([a.histories.lengths for a in found]).tolist() == [2, 1, 1, 1]


def test_validation_may_be_among_the_actions(sequences, chunk):
    found = [a.histories.items for a in sequences.actions(with_validation=True)]
    assert np.concatenate(found).tolist() == [1, 2, 3, 9, 5, 6, 8, 8, 8]


def test_user_ids_come_in_order(sequences, chunk):
    assert [i for ids in sequences.user_ids() for i in ids.to_pylist()] == list(USERS)


def test_facts_leave_the_holdout_out_of_the_last_day(sequences, chunk):
    assert sequences.facts == Facts(4, 3, 9, date(2017, 10, 3))


def test_all_users_with_validation_positions_validate_below_the_limit(sequences, chunk):
    users, rows = sequences.validating(limit=3, seed=1)
    assert users.tolist() == [0, 2, 3]
    assert rows["item_indices"].to_pylist() == [[1, 2, 3], [5, 6, 7], [8, 8, 8]]


def test_above_the_limit_a_seeded_sample_validates(sequences, chunk):
    samples = [sequences.validating(2, seed) for seed in range(12)]
    assert {str(users.tolist()) for users, _ in samples} == {"[0, 2]", "[0, 3]", "[2, 3]"}
    by_user = {0: [1, 2, 3], 2: [5, 6, 7], 3: [8, 8, 8]}
    for users, rows in samples:
        assert rows["item_indices"].to_pylist() == [by_user[user] for user in users]
    assert sequences.validating(2, seed=5)[0].tolist() == samples[5][0].tolist()
