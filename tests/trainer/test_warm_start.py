from datetime import UTC, date, datetime, timedelta

import numpy as np
import pytest
import torch

from schemas.checkpoints import CHECKPOINTS
from schemas.errors import RegistryError
from schemas.items import ITEMS
from schemas.partitions import get
from schemas.sequences import SEQUENCES
from schemas.settings import Settings, TrainingSettings
from schemas.soft_targets import SOFT_TARGETS
from trainer import promotion, training
from trainer.backbones import BACKBONES, Backbone, build
from trainer.checkpointing import load
from trainer.preparation import prepare
from trainer.sequences import Sequences
from trainer.versions import CHAMPION
from trainer.warm_start import (
    ARCHITECTURE,
    OF_ATTENTION,
    architecture_difference,
    champion_input,
    grow,
    start_from_champion,
)

DS = date(2017, 10, 31)
YESTERDAY = DS - timedelta(days=1)
TINY = {"width": 8, "num_blocks": 1, "max_length": 6, "dropout": 0.0, "num_threads": 1}
WARM = Settings.model_validate({"training": TINY | {"warm_start": True, "targets": "all"}})
OLD_IDS = ["apple", "bread", "cider", "dates"]
NEW_IDS = ["apple", "dates", "elder", "bread", "figs"]
OLD_INDEX = np.array([0, 1, 4, 0, 2, 0])
"""Of OLD_IDS, by `item_index` of NEW_IDS; cider is gone, elder and figs are new."""


@pytest.fixture(params=BACKBONES)
def of_name(request):
    return request.param


def weights_of(name, num_items, seed, **changes):
    settings = TrainingSettings(**TINY | {"backbone": name, "seed": seed} | changes)
    backbone = build(settings, num_items)
    torch.nn.init.normal_(backbone.item_bias)
    return backbone.state_dict()


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "separate"])
def test_a_catalogue_that_grew_keeps_old_rows_and_gets_those_of_a_new_model(of_name, tied):
    old = weights_of(of_name, 4, seed=1, tied_output=tied)
    new = weights_of(of_name, 6, seed=2, tied_output=tied)
    grown = grow(old, new, np.array([0, 1, 2, 3, 4, 0, 0]))
    embeddings = ["item_embedding.weight"] + ["output_embedding.weight"] * (not tied)
    for name in embeddings:
        assert torch.equal(grown[name][:5], old[name])
        assert torch.equal(grown[name][5:], new[name][5:])
    assert torch.equal(grown["item_bias"][:4], old["item_bias"])
    assert torch.equal(grown["item_bias"][4:], new["item_bias"][4:])
    others = grown.keys() - {*embeddings, "item_bias"}
    assert all(torch.equal(grown[name], old[name]) for name in others)
    assert len(others) == len(old) - len(embeddings) - 1


def test_a_grown_model_gives_old_items_the_scores_they_had(of_name):
    settings = TrainingSettings(**TINY, backbone=of_name)
    old, new = build(settings, 4).eval(), build(settings, 6).eval()
    new.load_state_dict(grow(old.state_dict(), new.state_dict(), np.array([0, 1, 2, 3, 4, 0, 0])))
    history, length = torch.tensor([[2, 4, 1]]), torch.tensor([3])
    found, expected = (backbone.score_next(history, length) for backbone in (new, old))
    torch.testing.assert_close(found[:, :5], expected)


def test_rows_follow_their_items_to_another_numbering():
    old, new = weights_of("sasrec", 4, seed=1), weights_of("sasrec", 5, seed=2)
    grown = grow(old, new, OLD_INDEX)
    for index, old_index in enumerate(OLD_INDEX[1:], start=1):
        source, row = (old, old_index) if old_index else (new, index)
        found = grown["item_embedding.weight"][index]
        assert torch.equal(found, source["item_embedding.weight"][row])
        assert grown["item_bias"][index - 1] == source["item_bias"][row - 1]


def test_grown_weights_share_no_memory_with_those_they_come_from():
    old, new = weights_of("sasrec", 4, seed=1), weights_of("sasrec", 4, seed=2)
    for tensor in grow(old, new, np.arange(5)).values():
        tensor.fill_(7)
    assert not any((tensor == 7).any() for tensor in [*old.values(), *new.values()])


@pytest.mark.parametrize("name", ARCHITECTURE + OF_ATTENTION)
def test_every_setting_that_shapes_weights_is_compared(name):
    theirs = {"backbone": "mlp", "history_skip": False, "tied_output": False}.get(name, 99)
    changed = WARM.training.model_copy(update={name: theirs})
    difference = architecture_difference(changed, WARM.training)
    assert difference == f"{name} {theirs}, not {getattr(WARM.training, name)}"


def test_settings_that_shape_no_weights_do_not_matter():
    changes = {"seed": 3, "epochs": 99, "loss": "cross_entropy", "dropout": 0.5}
    changed = WARM.training.model_copy(update=changes)
    assert architecture_difference(changed, WARM.training) == ""
    ours, theirs = (
        WARM.training.model_copy(update={"backbone": "gru4rec"} | changes)
        for changes in ({}, {"num_heads": 4, "max_length": 50})
    )
    assert architecture_difference(theirs, ours) == ""
    shapes = [{n: w.shape for n, w in build(s, 3).state_dict().items()} for s in (ours, theirs)]
    assert shapes[0] == shapes[1]


@pytest.fixture
def champion(registry, publish_items, publish_model):
    """Makes an untrained model of another night the champion."""

    def champion(ds=YESTERDAY, trained_until=date(2017, 10, 1), **changes):
        items = publish_items(OLD_IDS, ds)
        checkpoint = publish_model(items, seed=9, trained_until=trained_until, **changes)
        registry.point(CHAMPION, registry.register(checkpoint, items))
        return load(checkpoint)[0]

    return champion


@pytest.fixture
def start(registry, make_night):
    """Starts a new model tonight; returns it with what is said of it."""

    def start():
        night = make_night(WARM, inputs=champion_input(registry.root, DS, WARM))
        backbone = build(WARM.training, len(NEW_IDS))
        return backbone, start_from_champion(backbone, night, NEW_IDS, date(2017, 10, 24))

    return start


def assert_new(backbone):
    new = build(WARM.training, len(NEW_IDS)).state_dict()
    assert all(torch.equal(tensor, new[name]) for name, tensor in backbone.state_dict().items())


def test_a_night_starts_from_the_champion_by_item_id(champion, start):
    old = champion()
    backbone, line = start()
    assert line == "starts from champion 1 of 2017-10-30: 3 of 5 items known"
    expected = grow(old.state_dict(), build(WARM.training, len(NEW_IDS)).state_dict(), OLD_INDEX)
    assert backbone.state_dict().keys() == expected.keys()
    for name, tensor in backbone.state_dict().items():
        assert torch.equal(tensor, expected[name]), name


def test_without_a_champion_a_night_starts_new(start):
    backbone, line = start()
    assert line == "starts new: no champion of an earlier night"
    assert_new(backbone)


def test_a_champion_of_another_architecture_is_named_with_what_differs(champion, start):
    champion(width=16, num_heads=4)
    backbone, line = start()
    assert line == ("starts new: champion 1 of 2017-10-30 has width 16, not 8, num_heads 4, not 2")
    assert_new(backbone)


def test_a_champion_that_saw_days_of_tonights_holdout_is_not_started_from(champion, start):
    champion(trained_until=date(2017, 10, 25))
    backbone, line = start()
    assert line.startswith("starts new: champion 1 of 2017-10-30 was trained until 2017-10-25, ")
    assert_new(backbone)


@pytest.mark.parametrize("split", ["leave_one_out", "temporal-0-7", ""])
def test_a_champion_of_another_split_is_not_started_from(champion, start, split):
    champion(split=split)
    backbone, line = start()
    known = split or "nobody knows what"
    assert line == f"starts new: champion 1 of 2017-10-30 was split by {known}, not temporal-7-7"
    assert_new(backbone)


@pytest.mark.parametrize("ds", [DS, DS + timedelta(days=1)], ids=["this night", "a later night"])
def test_the_champion_is_one_of_an_earlier_night(champion, registry, ds):
    champion(ds)
    assert champion_input(registry.root, DS, WARM) == []


def test_the_champion_is_an_input_only_with_warm_start(champion, registry):
    champion()
    assert champion_input(registry.root, DS, Settings()) == []
    (line,) = champion_input(registry.root, DS, WARM)
    assert line == registry.champion().as_input()


def test_op03_a_decided_night_meets_the_champion_it_met_first_again(registry, night_of):
    promotion.main(night_of([0.5] * 4, YESTERDAY))
    before = champion_input(registry.root, DS, WARM)
    assert before[0].run == "1"
    promotion.main(night_of([0.6] * 4, DS))
    assert registry.champion().number == 2
    assert champion_input(registry.root, DS, WARM) == before
    promotion.main(night_of([0.7] * 4, DS, seed=3))
    assert champion_input(registry.root, DS, WARM) == before
    assert champion_input(registry.root, YESTERDAY, WARM) == []


def test_a_damaged_champion_is_an_error(champion, registry, start):
    champion()
    for weights in (registry.root / "mlflow").rglob("weights.safetensors"):
        weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(RegistryError, match="restore the artifact store"):
        start()


@pytest.fixture
def tonight(publish_rows, publish_items):
    """Tonight's tables: everyone takes the items in order, and a week later one more."""

    def user(number):
        times = [datetime(2017, 10, 20 + day, tzinfo=UTC) for day in range(5)]
        return {
            "user_id": f"user-{number}",
            "item_indices": [1 + (number + step) % len(NEW_IDS) for step in range(5)],
            "event_times": times,
            "num_train": 4,
            "num_validation": 0,
            "num_holdout": 1,
        }

    publish_items(NEW_IDS)
    publish_rows(SEQUENCES, [user(number) for number in range(8)])
    target = {"kind": "item", "item_indices": [1], "masses": [1.0], "dropped_mass": 0.0}
    publish_rows(SOFT_TARGETS, [target | {"seed_id": item_id} for item_id in sorted(NEW_IDS)])


def train(registry, make_night, **changes):
    """Trains a night whose steps are too small to move a weight visibly."""
    changes = {"epochs": 1, "learning_rate": 1e-12} | changes
    settings = WARM.model_copy(update={"training": WARM.training.model_copy(update=changes)})
    lines = training.inputs(registry.root, DS, settings)
    training.main(make_night(settings, inputs=lines))
    return get(registry.root, CHECKPOINTS, DS)


def test_a_trained_night_starts_from_the_champion_and_tells(
    champion, tonight, registry, make_night, capsys
):
    old = champion()
    checkpoint = train(registry, make_night)
    assert "starts from champion 1 of 2017-10-30: 3 of 5 items known\n" in capsys.readouterr().out
    backbone, settings = load(checkpoint)
    assert settings.warm_start
    for index, old_index in enumerate(OLD_INDEX):
        found, expected = (
            model.item_embedding.weight[row] for model, row in ((backbone, index), (old, old_index))
        )
        assert torch.allclose(found, expected, atol=1e-6) == (old_index > 0 or index == 0)
    torch.testing.assert_close(backbone.positions, old.positions)
    lines = {line["table"]: line for line in checkpoint.manifest.inputs}
    assert lines[CHAMPION]["digest"] == registry.champion().weights_sha256


def test_item_biases_start_from_tonights_popularity_and_not_from_the_champion(
    champion, tonight, registry, make_night, monkeypatch
):
    champion()
    biases = []
    monkeypatch.setattr(
        Backbone,
        "start_from",
        lambda backbone, counts: biases.append(backbone.item_bias.data.fill_(counts.sum())),
    )
    backbone, _ = prepare(
        make_night(WARM, inputs=training.inputs(registry.root, DS, WARM)),
        Sequences(get(registry.root, SEQUENCES, DS)),
    )
    assert len(biases) == 1
    assert torch.equal(backbone.item_bias, biases[0])


def test_a_night_without_warm_start_reads_no_champion(champion, tonight, registry, make_night):
    champion()
    checkpoint = train(registry, make_night, warm_start=False)
    assert {line["table"] for line in checkpoint.manifest.inputs} == {
        "sequences",
        ITEMS.table,
        "soft_targets",
    }
