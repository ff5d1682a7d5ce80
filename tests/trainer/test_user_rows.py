import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.errors import DataError
from trainer.user_rows import user_rows

SCHEMA = pa.schema(
    {
        "seed_id": pa.string(),
        "item_indices": pa.list_(pa.int32()),
        "masses": pa.list_(pa.float32()),
    }
)


def chunks_of(values, size):
    return [values[start : start + size] for start in range(0, len(values), size)]


def table_of(rows):
    columns = [dict(zip(SCHEMA.names, row, strict=True)) for row in rows]
    return pa.Table.from_pylist(columns, schema=SCHEMA)


def joined(rows, ids, row_chunk=2, id_chunk=2):
    of_users = [table_of(chunk) for chunk in chunks_of(rows, row_chunk)]
    user_ids = [pa.chunked_array([pa.array(c, pa.string())]) for c in chunks_of(ids, id_chunk)]
    return user_rows(of_users, user_ids, None)


def test_rows_are_padded_on_the_left_to_the_longest_asked_for():
    found = joined([("a", [2, 5], [0.5, 0.25]), ("c", [7], [1.0])], ["a", "b", "c"])
    items, masses = found.at(torch.tensor([2, 0, 1, 0]))
    assert items.tolist() == [[0, 7], [2, 5], [0, 0], [2, 5]]
    assert masses.tolist() == [[0, 1], [0.5, 0.25], [0, 0], [0.5, 0.25]]
    assert (items.dtype, masses.dtype) == (torch.int32, torch.float32)


def test_users_without_a_row_have_one_column_of_padding():
    found = joined([("a", [2, 5], [0.5, 0.25])], ["a", "b"])
    assert found.at(torch.tensor([1]))[0].tolist() == [[0]]


@pytest.mark.parametrize("seed", ["aa", "zz"])
def test_a_row_of_no_user_is_named(seed):
    rows = sorted([("a", [1], [1.0]), ("b", [1], [1.0]), (seed, [1], [1.0])])
    with pytest.raises(DataError, match=f"1 seeds .* that sequences lacks, such as {seed}"):
        joined(rows, ["a", "b"])


names = st.lists(st.text("abé日", min_size=1, max_size=3), unique=True, max_size=12)


@settings(deadline=None, derandomize=True)
@given(names, st.data(), st.integers(1, 5), st.integers(1, 5))
def test_chunks_of_any_size_meet_their_users(ids, data, row_chunk, id_chunk):
    ids = sorted(ids)
    chosen = [name for name in ids if data.draw(st.booleans())]
    rows = [(name, [1 + ids.index(name)], [0.5]) for name in chosen]
    found = joined(rows, ids, row_chunk, id_chunk)
    expected = [[1 + n] if name in chosen else [0] for n, name in enumerate(ids)]
    items = [found.at(torch.tensor([n]))[0][0].tolist() for n in range(len(ids))]
    assert items == expected
