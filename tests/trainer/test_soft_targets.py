import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.errors import DataError
from schemas.settings import TrainingSettings
from schemas.soft_targets import SOFT_TARGETS
from trainer.soft_targets import from_batches, no_soft_targets

ITEMS = pa.table(
    {"item_index": pa.array([1, 2, 3, 4], pa.int32()), "item_id": ["milk", "rye", "tea", "jam"]}
)
USERS = [pa.chunked_array([["ann", "bob"]])]
MILK = ("item", "milk", [1, 3], [0.75, 0.25])
RYE = ("item", "rye", [1, 2, 4], [0.25, 0.5, 0.125])
ANN = ("user", "ann", [2, 3], [0.5, 0.5])


def look_up(rows, examples, **shares):
    """Own mass of the target, and {item: mass} of the others, per (target, user[, item before])."""
    columns = ("kind", "seed_id", "item_indices", "masses")
    dicts = [dict(zip(columns, r, strict=True)) | {"dropped_mass": 0.0} for r in rows]
    table = pa.Table.from_pylist(dicts, schema=SOFT_TARGETS.schema)
    targets, users, before = torch.tensor([(*example, 1)[:3] for example in examples]).T
    batches = [table.slice(start, 2) for start in range(0, table.num_rows, 2)]
    soft_targets = from_batches(batches, ITEMS, USERS, TrainingSettings(**shares))
    found = soft_targets.examples(targets, users, before)
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


def test_what_the_item_before_leads_to_is_mixed_in_without_itself():
    ((own, others),) = look_up([MILK, RYE], [(1, 0, 2)], gamma=0.5)
    # Of rye's others, milk has 0.25 and jam 0.125.
    assert own == pytest.approx(0.5 * 0.75 + 0.5 * 2 / 3)
    assert others == {3: 0.125, 4: pytest.approx(0.5 / 3)}


def test_an_item_before_that_leads_nowhere_has_no_share():
    assert look_up([MILK], [(1, 0, 4)], gamma=0.5) == [(0.75, {3: 0.25})]


def test_an_item_that_follows_itself_gets_nothing_from_its_own_row():
    assert look_up([MILK], [(1, 0, 1)], gamma=0.5) == [(0.375, {3: 0.125 + 0.5})]


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
    found = no_soft_targets(4).examples(*torch.tensor([[1, 4], [0, 0], [2, 2]]))
    assert found.target_masses_N.tolist() == [1.0, 1.0]
    assert found.masses_NK.shape == (2, 0)


rows = st.dictionaries(st.integers(1, 4), st.sampled_from([0.125, 0.25, 0.5]), min_size=1)


@settings(deadline=None, derandomize=True)
@given(
    st.lists(rows, min_size=4, max_size=4),
    rows,
    st.sampled_from([0.25, 0.5, 1.0]),
    st.sampled_from([0.0, 0.25, 1.0]),
)
def test_the_mix_equals_the_dense_one(of_items, of_ann, beta, gamma):
    table = [
        ("item", name, sorted(row), [row[i] for i in sorted(row)])
        for name, row in zip(ITEMS["item_id"].to_pylist(), of_items, strict=True)
    ]
    table.append(("user", "ann", sorted(of_ann), [of_ann[i] for i in sorted(of_ann)]))
    pairs = [(y, x) for y in range(1, 5) for x in range(1, 5)]
    found = look_up(table, [(y, 0, x) for y, x in pairs], beta=beta, gamma=gamma)
    for (y, x), (own, others) in zip(pairs, found, strict=True):
        led_to = {i: mass for i, mass in of_items[x - 1].items() if i != x}
        share = gamma if led_to else 0
        q = {
            i: (1 - share) * ((1 - beta) * of_items[y - 1].get(i, 0) + beta * of_ann.get(i, 0))
            + share * led_to.get(i, 0) / (sum(led_to.values()) or 1)
            for i in range(1, 5)
        }
        assert own == pytest.approx(q.pop(y))
        assert others == pytest.approx({i: mass for i, mass in q.items() if mass})
