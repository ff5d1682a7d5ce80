import re

import numpy as np
import pyarrow as pa
import pytest
import torch

import trainer.fitting
from schemas.errors import DataError
from schemas.settings import EvaluationSettings, TrainingSettings
from trainer.backbones import BACKBONES, build
from trainer.batches import Actions, TrainingWindows
from trainer.checkpointing import ResumeState
from trainer.fitting import Fitting, prepare_torch
from trainer.histories import from_lists
from trainer.losses import LOSSES
from trainer.soft_targets import no_soft_targets
from trainer.validation import ndcg_10, validation_of

NUM_ITEMS = 12
CYCLES = [[1 + (u + t) % NUM_ITEMS for t in range(4 + u % 7)] for u in range(40)]
"""Everyone goes through the items in the same order, so the next one is certain."""
TINY = {
    "width": 8,
    "max_length": 5,
    "batch_size": 8,
    "targets": "all",
    "epochs": 3,
    "num_threads": 1,
}


def fitting(tmp_path, validate=None, fingerprint="f", **changes):
    """A run over `CYCLES`, and what it was told of its epochs."""
    settings = TrainingSettings(**TINY | changes)
    prepare_torch(settings)
    histories = from_lists(CYCLES)
    actions = Actions(histories, np.arange(len(histories.items)))
    windows = TrainingWindows(actions, no_soft_targets(NUM_ITEMS), settings)
    resume = ResumeState.of(tmp_path, "2017-10-31", fingerprint)
    told = []
    run = Fitting(
        build(settings, NUM_ITEMS),
        windows,
        settings,
        resume,
        validate,
        lambda epoch, metrics: told.append((epoch, metrics)),
    )
    return run, told


def assert_equal_weights(first, second):
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("loss", LOSSES)
def test_a_certain_next_item_is_learned(tmp_path, backbone, loss):
    run, _ = fitting(
        tmp_path, backbone=backbone, loss=loss, epochs=12, learning_rate=0.03, dropout=0.0
    )
    run.run()
    columns = {"item_indices": pa.array([c[:4] for c in CYCLES], pa.list_(pa.int32()))}
    columns |= {"num_train": [3] * len(CYCLES), "num_validation": [1] * len(CYCLES)}
    validation = validation_of(pa.table(columns), NUM_ITEMS, exclude_seen=False)
    assert ndcg_10(run.backbone, validation, EvaluationSettings()) > 0.9


def test_op02_the_same_inputs_give_the_same_weights(tmp_path):
    first, second = (fitting(tmp_path, fingerprint=f)[0].run() for f in "ab")
    assert_equal_weights(first.best_weights, second.best_weights)


def test_another_seed_gives_other_weights(tmp_path):
    first, second = (fitting(tmp_path, fingerprint=f"{s}", seed=s)[0].run() for s in (1, 2))
    assert not torch.equal(first.best_weights["item_bias"], second.best_weights["item_bias"])


class Interrupted(Exception):
    """Stands for a kill between two steps."""


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("steps", [1, 7, 10, 13])
def test_a_run_interrupted_inside_an_epoch_ends_with_the_weights_of_an_uninterrupted_one(
    tmp_path, monkeypatch, backbone, steps
):
    monkeypatch.setattr(trainer.fitting, "SECONDS_BETWEEN_SAVES", 0.0)
    whole, expected = fitting(tmp_path, fingerprint="whole", backbone=backbone)
    whole.run()

    interrupted, _ = fitting(tmp_path, backbone=backbone)
    step, done = interrupted._step, []

    def step_until(batch):
        if len(done) == steps:
            raise Interrupted
        done.append(batch)
        return step(batch)

    interrupted._step = step_until
    with pytest.raises(Interrupted):
        interrupted.run()
    resumed, told = fitting(tmp_path, backbone=backbone)
    assert_equal_weights(resumed.run().best_weights, whole.progress.best_weights)
    for (epoch, metrics), (other_epoch, others) in zip(told, expected, strict=True):
        assert epoch == other_epoch
        assert metrics["train_loss"] == others["train_loss"]


def test_a_finished_run_that_was_not_published_trains_no_further(tmp_path):
    first = fitting(tmp_path)[0].run()
    again, told = fitting(tmp_path)
    assert_equal_weights(again.run().best_weights, first.best_weights)
    assert [epoch for epoch, _ in told] == [1, 2, 3]


def test_training_stops_when_validation_no_longer_improves_and_keeps_the_best(tmp_path):
    values = iter([0.1, 0.3, 0.2, 0.3, 0.9])
    stopped, _ = fitting(tmp_path, lambda: next(values), "a", epochs=9, patience=2)
    progress = stopped.run()
    two_epochs = fitting(tmp_path, None, "b", epochs=2)[0].run()
    assert (len(progress.epochs), progress.best_epoch) == (4, 2)
    assert_equal_weights(progress.best_weights, two_epochs.best_weights)


def test_without_validation_all_epochs_are_trained_and_the_last_is_kept(tmp_path):
    progress = fitting(tmp_path, epochs=4, patience=1)[0].run()
    assert (len(progress.epochs), progress.best_epoch) == (4, 4)


def test_a_loss_that_is_not_finite_names_epoch_step_and_what_to_change(tmp_path):
    run, _ = fitting(tmp_path, learning_rate=1e30)
    expected = r"epoch 1, step \d of \d+.*lower training\.learning_rate \(now 1e\+30\)"
    with pytest.raises(DataError, match=re.compile(expected)):
        run.run()


def test_the_parts_of_the_loss_add_up_to_it(tmp_path):
    _, told = run = fitting(tmp_path, epochs=1, loss="decoupled", lambda2=0.25)
    run[0].run()
    ((_, metrics),) = told
    parts = 0.25 * metrics["train_confidence"] + 0.75 * metrics["train_distribution"]
    assert metrics["train_loss"] == pytest.approx(parts)
