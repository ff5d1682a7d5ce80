import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.errors import DataError
from schemas.soft_targets import SOFT_TARGETS
from trainer.soft_targets import from_batches, no_soft_targets

ITEMS = pa.table(
    {"item_index": pa.array([1, 2, 3, 4], pa.int32()), "item_id": ["milk", "rye", "tea", "jam"]}
)
USERS = [pa.chunked_array([["ann", "bob"]])]
MILK = ("item", "milk", [1, 3], [0.75, 0.25])
RYE = ("item", "rye", [1, 2, 4], [0.25, 0.5, 0.125])
ANN = ("user", "ann", [2, 3], [0.5, 0.5])


def look_up(rows, examples, beta=0.0):
    """q as {item: mass} per example, and its target's own mass."""
    columns = ("kind", "seed_id", "item_indices", "masses")
    dicts = [dict(zip(columns, r, strict=True)) | {"dropped_mass": 0.0} for r in rows]
    table = pa.Table.from_pylist(dicts, schema=SOFT_TARGETS.schema)
    targets, users = torch.tensor(examples).T
    batches = [table.slice(start, 2) for start in range(0, table.num_rows, 2)]
    found = from_batches(batches, ITEMS, USERS, beta).examples(targets, users)
    others = []
    for items, masses in zip(found.items_NK.tolist(), found.masses_NK.tolist(), strict=True):
        kept = [(i, m) for i, m in zip(items, masses, strict=True) if m]
        assert len(dict(kept)) == len(kept), "an item occurs twice"
        others.append(dict(kept))
    return list(zip(found.target_masses_N.tolist(), others, strict=True))


def test_an_items_own_mass_is_kept_apart():
    assert look_up([MILK, RYE], [(1, 0), (2, 1)]) == [
        (0.75, {3: 0.25}),
        (0.5, {1: 0.25, 4: 0.125}),
    ]


def test_an_item_without_a_row_is_its_own_soft_target():
    assert look_up([MILK], [(2, 0)]) == [(1.0, {})]


def test_a_row_that_lost_its_own_mass_leaves_none_to_the_target():
    assert look_up([("item", "milk", [2], [0.5])], [(1, 0)]) == [(0.0, {2: 0.5})]


def test_users_are_mixed_in_and_merged_item_by_item():
    ((own, others),) = look_up([MILK, RYE, ANN], [(2, 0)], beta=0.5)
    assert own == 0.5 * 0.5 + 0.5 * 0.5
    assert others == {1: 0.125, 4: 0.0625, 3: 0.25}


def test_items_of_both_rows_are_summed():
    ((own, others),) = look_up([MILK, ANN], [(1, 0)], beta=0.5)
    assert own == 0.375
    assert others == {3: 0.125 + 0.25, 2: 0.25}


def test_a_user_without_a_row_gets_the_items_soft_target_alone():
    assert look_up([MILK, ANN], [(1, 1)], beta=0.5) == [(0.75, {3: 0.25})]


def test_beta_without_user_rows_names_both_settings():
    with pytest.raises(DataError, match=r"user_seeds = true, or training\.beta = 0"):
        look_up([MILK], [(1, 0)], beta=0.5)


def test_a_seed_that_items_lacks_is_named():
    with pytest.raises(DataError, match="items lacks, such as salt"):
        look_up([("item", "salt", [1], [1.0])], [(1, 0)])


def test_an_item_index_beyond_the_catalogue_is_an_error():
    with pytest.raises(DataError, match="item_index 5 in soft_targets"):
        look_up([("item", "milk", [1, 5], [0.5, 0.5])], [(1, 0)])


def test_without_soft_targets_every_item_is_its_own():
    found = no_soft_targets(4).examples(torch.tensor([1, 4]), torch.tensor([0, 0]))
    assert found.target_masses_N.tolist() == [1.0, 1.0]
    assert found.masses_NK.shape == (2, 0)


rows = st.dictionaries(st.integers(1, 4), st.sampled_from([0.125, 0.25, 0.5]), min_size=1)


@settings(deadline=None, derandomize=True)
@given(st.lists(rows, min_size=4, max_size=4), rows, st.sampled_from([0.25, 0.5, 1.0]))
def test_the_mix_equals_the_dense_one(of_items, of_ann, beta):
    table = [
        ("item", name, sorted(row), [row[i] for i in sorted(row)])
        for name, row in zip(ITEMS["item_id"].to_pylist(), of_items, strict=True)
    ]
    table.append(("user", "ann", sorted(of_ann), [of_ann[i] for i in sorted(of_ann)]))
    found = look_up(table, [(y, 0) for y in (1, 2, 3, 4)], beta)
    for y, (own, others) in enumerate(found, start=1):
        q = {
            i: (1 - beta) * of_items[y - 1].get(i, 0) + beta * of_ann.get(i, 0) for i in range(1, 5)
        }
        assert own == q.pop(y)
        assert others == {i: mass for i, mass in q.items() if mass}
