import hashlib
import json
import sys
from dataclasses import asdict
from datetime import date, timedelta
from itertools import pairwise

import pytest

from schemas.command import run
from schemas.errors import DataError, MissingInputError
from schemas.partitions import find, get
from schemas.recommendations import RECOMMENDATIONS
from schemas.settings import Settings
from trainer import evaluation, promotion, recommendations, scorer
from trainer.recommendations import STAGE, main, recommend
from trainer.versions import CHAMPION

DS = date(2017, 10, 31)
ITEM_IDS = [f"item-{n}" for n in range(1, 9)]
USERS = [([1, 2, 3], [2, 4]), ([4, 5], []), ([6, 7, 1], [6]), ([2, 2], [8, 3, 1])]


@pytest.fixture
def items(publish_items):
    return publish_items(ITEM_IDS)


@pytest.fixture
def sequences(publish_sequences):
    return publish_sequences(USERS)


@pytest.fixture
def model(items, publish_model):
    return scorer.from_checkpoint(publish_model(items), items)


def settings(**sections):
    return Settings.model_validate({"recommendations": {"k": 3}} | sections)


def lists_of(table):
    lists = {}
    for row in table.sort_by([("user_id", "ascending"), ("rank", "ascending")]).to_pylist():
        lists.setdefault(row["user_id"], []).append(row["item_id"])
    return lists


def test_every_user_gets_k_items_ranked_from_one(sequences, model):
    table = recommend(sequences.read(), ITEM_IDS, model, 7, settings())
    rows = table.to_pylist()
    assert [r["rank"] for r in rows] == [1, 2, 3] * 4
    assert {r["model_version"] for r in rows} == {7}
    assert all(a["score"] >= b["score"] for a, b in pairwise(rows) if b["rank"] > 1)


def test_nothing_of_the_whole_history_is_recommended_again(sequences, model):
    lists = lists_of(recommend(sequences.read(), ITEM_IDS, model, 1, settings()))
    assert not set(lists["user-0"]) & {"item-1", "item-2", "item-3", "item-4"}
    assert not set(lists["user-3"]) & {"item-1", "item-2", "item-3", "item-8"}


def test_seen_items_may_be_recommended_where_the_settings_say_so(publish_sequences, model):
    chosen = settings(evaluation={"exclude_seen": False}, recommendations={"k": 8})
    sequences = publish_sequences([([1, 2, 3], [4])])
    assert len(lists_of(recommend(sequences.read(), ITEM_IDS, model, 1, chosen))["user-0"]) == 8


def test_a_user_with_few_items_left_gets_a_short_list(publish_sequences, model):
    sequences = publish_sequences([([1, 2, 3, 4], [5, 6, 7])])
    lists = lists_of(recommend(sequences.read(), ITEM_IDS, model, 1, settings()))
    assert lists == {"user-0": ["item-8"]}


def test_ties_go_to_the_smaller_item_index(sequences, model):
    model.backbone.item_embedding.weight.data.zero_()
    lists = lists_of(recommend(sequences.read(), ITEM_IDS, model, 1, settings()))
    assert lists["user-1"] == ["item-1", "item-2", "item-3"]


def test_op20_lists_do_not_depend_on_the_batch_size(sequences, model):
    lists = [
        lists_of(recommend(sequences.read(), ITEM_IDS, model, 1, settings(evaluation=batches)))
        for batches in ({"batch_size": 1}, {"batch_size": 3}, {"batch_size": 100})
    ]
    assert lists[0] == lists[1] == lists[2]


def test_a_champion_ranks_its_own_catalogue(publish_sequences, model):
    """Tonight's item 1 is the model's item 8, and item 2 is new to it."""
    sequences = publish_sequences([([1, 2], [])])
    tonight = ["item-8", "new"]
    chosen = settings(recommendations={"k": 8})
    (items,) = lists_of(recommend(sequences.read(), tonight, model, 1, chosen)).values()
    assert sorted(items) == [f"item-{n}" for n in range(1, 8)]


def test_a_user_the_champion_knows_nothing_of_gets_the_most_supported(publish_sequences, model):
    sequences = publish_sequences([([1, 1], [])])
    lists = lists_of(recommend(sequences.read(), ["new"], model, 1, settings()))
    assert lists == {"user-0": ["item-1", "item-2", "item-3"]}


def test_sequences_of_items_that_were_replaced_are_refused(
    registry, items, sequences, publish_model, make_night
):
    registry.point(CHAMPION, registry.register(publish_model(items), items))
    file = sequences.path / "manifest.json"
    made_from = asdict(items.as_input()) | {"digest": "of other items"}
    text = json.dumps(json.loads(file.read_text()) | {"inputs": [made_from]})
    file.write_text(text)
    pointer = sequences.path.parent / "CURRENT"
    known = json.loads(pointer.read_text())
    sha256 = hashlib.sha256(text.encode()).hexdigest()
    pointer.write_text(json.dumps(known | {"manifest_sha256": sha256}))
    night = make_night(inputs=STAGE.inputs(registry.root, DS, Settings()))
    with pytest.raises(DataError, match="sequences of 2017-10-31 made from items of other ite"):
        main(night)


def test_a_night_without_a_champion_is_an_error(registry, items, sequences):
    with pytest.raises(MissingInputError, match="no champion of penumbra"):
        STAGE.inputs(registry.root, DS, Settings())


def test_the_champion_of_another_night_serves(
    registry, items, sequences, publish_items, publish_sequences, publish_model, make_night
):
    registry.point(CHAMPION, registry.register(publish_model(items), items))
    tonight = DS + timedelta(days=1)
    publish_items([*ITEM_IDS, "new"], tonight)
    publish_sequences([([9, 1], [])], tonight)
    inputs = STAGE.inputs(registry.root, tonight, settings())
    main(make_night(settings(), tonight, inputs))
    table = get(registry.root, RECOMMENDATIONS, tonight).read()
    (items,) = lists_of(table).values()
    assert set(items) <= set(ITEM_IDS) - {"item-1"}
    assert table["model_version"].to_pylist() == [1, 1, 1]


def test_whoever_was_promoted_since_the_inputs_were_read_does_not_recommend_yet(
    registry, items, sequences, publish_model, make_night
):
    first = registry.register(publish_model(items), items)
    registry.point(CHAMPION, first)
    inputs = STAGE.inputs(registry.root, DS, settings())
    registry.point(CHAMPION, registry.register(publish_model(items, seed=9), items))
    main(make_night(settings(), inputs=inputs))
    versions = get(registry.root, RECOMMENDATIONS, DS).read()["model_version"]
    assert set(versions.to_pylist()) == {first.number}


def stages(monkeypatch, capsys, registry, ds):
    """Runs three stages from their command lines; returns exit codes and what they printed."""
    codes = []
    for module in (evaluation, promotion, recommendations):
        arguments = ["stage", "--root", str(registry.root), "--ds", ds.isoformat()]
        monkeypatch.setattr(sys, "argv", arguments)
        with pytest.raises(SystemExit) as ended:
            run(module.STAGE, module.main)
        codes.append(ended.value.code)
    return codes, capsys.readouterr().out


def test_op02_nights_run_again_change_nothing_after_the_champion_moved(
    registry, items, sequences, publish_items, publish_sequences, publish_model, monkeypatch, capsys
):
    """Two nights are promoted; the first one's champion was none, and later tables keep it so."""
    limits = {"MIN_USERS": "1", "FLOOR": "0", "POPULARITY_MARGIN": "-1", "ITEM_KNN_MARGIN": "-1"}
    limits |= {"CHAMPION_MARGIN": "1", "MAX_COVERAGE_DROP": "1", "CANARY_USERS": "0"}
    for key, value in limits.items():
        monkeypatch.setenv(f"PENUMBRA_GATE__{key}", value)
    second = DS + timedelta(days=1)
    for ds, seed in ((DS, 1), (second, 2)):
        publish_sequences(USERS, ds)
        publish_model(publish_items(ITEM_IDS, ds), seed=seed, trained_until=ds - timedelta(days=30))
        assert stages(monkeypatch, capsys, registry, ds)[0] == [0, 0, 0]
    assert registry.champion().number == 2

    def runs():
        tables = (evaluation.SCORECARDS, promotion.PROMOTIONS, RECOMMENDATIONS)
        return [find(registry.root, t, ds).manifest.run for t in tables for ds in (DS, second)]

    before = runs()
    for ds, version in ((DS, 1), (second, 2)):
        codes, printed = stages(monkeypatch, capsys, registry, ds)
        assert codes == [0, 0, 0]
        assert printed.count("unchanged since") == 3
        assert f"unchanged, promote of version {version} stands" in printed
    assert runs() == before
    assert registry.champion().number == 2
