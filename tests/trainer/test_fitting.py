import io
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import rich
import torch

import trainer.fitting
from schemas.errors import DataError
from schemas.settings import EvaluationSettings, TrainingSettings
from trainer.actions import Actions
from trainer.backbones import BACKBONES, build
from trainer.batches import TrainingWindows
from trainer.checkpointing import ResumeState
from trainer.fitting import Fitting, has_fast, prepare_torch
from trainer.histories import from_lists
from trainer.losses import DRAW_NEGATIVES, LOSSES
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
    windows = TrainingWindows([actions], no_soft_targets(NUM_ITEMS), settings)
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
    epochs = 20 if loss in DRAW_NEGATIVES else 12
    changes = {"epochs": epochs, "learning_rate": 0.03, "dropout": 0.0, "num_negatives": 6}
    run, _ = fitting(tmp_path, backbone=backbone, loss=loss, **changes)
    run.run()
    columns = {"item_indices": pa.array([c[:4] for c in CYCLES], pa.list_(pa.int32()))}
    columns |= {"num_train": [3] * len(CYCLES), "num_validation": [1] * len(CYCLES)}
    validation = validation_of(pa.table(columns), NUM_ITEMS, exclude_seen=False)
    reach = 0.75 if loss in DRAW_NEGATIVES else 0.9  # drawn items leave some of the order open
    assert ndcg_10(run.backbone, validation, EvaluationSettings()) > reach


def test_op02_the_same_inputs_give_the_same_weights(tmp_path):
    first, second = (fitting(tmp_path, fingerprint=f)[0].run() for f in "ab")
    assert_equal_weights(first.best_weights, second.best_weights)


def test_a_terminal_has_a_bar_of_the_epoch_and_all_its_batches(tmp_path, monkeypatch):
    expected = fitting(tmp_path, fingerprint="a")[0].run()
    screen = io.StringIO()
    monkeypatch.setattr(screen, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(rich, "_console", None)  # the one of the tests has no terminal
    found = fitting(tmp_path, fingerprint="b")[0].run()
    assert "epoch 3" in screen.getvalue() and "100%" in screen.getvalue()
    assert_equal_weights(found.best_weights, expected.best_weights)


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


def test_a_slow_save_is_followed_by_ten_times_its_seconds_of_work(tmp_path, monkeypatch):
    monkeypatch.setattr(trainer.fitting, "SECONDS_BETWEEN_SAVES", 2.0)
    clock, saves, steps = [0.0], [], []
    monkeypatch.setattr(trainer.fitting, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    run, _ = fitting(tmp_path, epochs=12)
    save, step = run._save, run._step

    def slow_save():
        save()
        clock[0] += 3.0
        saves.append(len(steps))

    def step_of_a_second(batch):
        clock[0] += 1.0
        steps.append(batch)
        return step(batch)

    run._save, run._step = slow_save, step_of_a_second
    run.run()
    of_epochs = {n * run.windows.num_batches for n in range(1, 13)}
    assert set(saves) - of_epochs == {
        at for end in of_epochs for at in (end - run.windows.num_batches + 2,) if at < end
    }


def test_weights_that_the_last_step_broke_are_not_kept(tmp_path):
    """No loss follows that would tell."""
    run, _ = fitting(tmp_path, epochs=1, schedule="constant", warm_up_steps=1)
    step = run._step

    def breaking(batch):
        sums = step(batch)
        if run.progress.batch == run.windows.num_batches - 1:
            with torch.no_grad():
                run.backbone.item_bias[0] = torch.inf
        return sums

    run._step = breaking
    with pytest.raises(DataError, match="found numbers that are not finite in item_bias after ep"):
        run.run()
    assert not run.progress.best_weights


@pytest.mark.parametrize(("loss", "is_alike"), [("gbce", True), ("bce", True), ("bpr", False)])
def test_losses_that_learn_probabilities_draw_all_items_alike(tmp_path, loss, is_alike):
    run, _ = fitting(tmp_path, epochs=1, loss=loss, negative_power=1.0)
    run.run()
    chances = run.log_sampling_V[1:].exp()
    assert torch.allclose(chances, chances.mean()) is is_alike


def test_a_finished_run_that_was_not_published_trains_no_further(tmp_path):
    first = fitting(tmp_path)[0].run()
    again, told = fitting(tmp_path)
    assert_equal_weights(again.run().best_weights, first.best_weights)
    assert [epoch for epoch, _ in told] == [1, 2, 3]


def test_training_stops_when_validation_no_longer_improves_and_keeps_the_best(tmp_path):
    values = iter([0.1, 0.3, 0.2, 0.3, 0.9])
    stopped, _ = fitting(
        tmp_path, lambda: {"validation_ndcg_10": next(values)}, "a", epochs=9, patience=2
    )
    progress = stopped.run()
    two_epochs = fitting(tmp_path, None, "b", epochs=2)[0].run()
    assert (len(progress.epochs), progress.best_epoch) == (4, 2)
    assert_equal_weights(progress.best_weights, two_epochs.best_weights)


def test_without_validation_all_epochs_are_trained_and_the_last_is_kept(tmp_path):
    run, told = fitting(tmp_path, epochs=4, patience=1)
    progress = run.run()
    assert (len(progress.epochs), progress.best_epoch) == (4, 4)
    assert [name for _, metrics in told for name in metrics if "validation" in name] == []


def test_a_loss_that_is_not_finite_names_epoch_step_and_what_to_change(tmp_path):
    run, _ = fitting(tmp_path, learning_rate=1e30)
    expected = r"epoch 1, step \d of \d+.*lower training\.learning_rate \(now 1e\+30\)"
    with pytest.raises(DataError, match=re.compile(expected)):
        run.run()


def test_gradients_are_clipped_before_a_step(tmp_path):
    run, _ = fitting(tmp_path, clip_norm=0.01, epochs=1)
    step, norms = run._step, []

    def take_note(batch):
        sums = step(batch)
        gradients = [parameter.grad for parameter in run.backbone.parameters()]
        norms.append(torch.nn.utils.get_total_norm(gradients).item())
        return sums

    run._step = take_note
    run.run()
    assert norms == pytest.approx([0.01] * run.windows.num_batches, rel=1e-3)


def test_a_first_loss_that_is_no_number_is_told_with_the_limit(tmp_path):
    run, _ = fitting(tmp_path)
    with torch.no_grad():
        run.backbone.item_bias.fill_(float("nan"))
    with pytest.raises(DataError, match=r"a loss of nan .* a loss of at most 10 \(training"):
        run.run()


def test_a_loss_that_explodes_is_an_error_before_it_is_infinite(tmp_path):
    run, _ = fitting(tmp_path, learning_rate=3.0, clip_norm=1e9, explosion=1.5, epochs=30)
    with pytest.raises(
        DataError, match=re.compile(r"a loss of [\d.]+ .*a loss of at most \d\.\d+")
    ):
        run.run()


def learning_rates(tmp_path, **changes):
    run, _ = fitting(tmp_path, **changes)
    step, rates = run._step, []

    def recording(batch):
        sums = step(batch)
        rates.append(run.optimiser.param_groups[0]["lr"])
        return sums

    run._step = recording
    run.run()
    return rates


def test_a_learning_rate_rises_to_its_peak_and_stays(tmp_path):
    rates = learning_rates(tmp_path, epochs=2, warm_up_steps=4, learning_rate=0.1)
    assert rates[:5] == pytest.approx([0.025, 0.05, 0.075, 0.1, 0.1])
    assert set(rates[3:]) == {0.1}


def test_a_cosine_schedule_ends_at_zero_with_the_last_epoch(tmp_path):
    changes = {"epochs": 3, "warm_up_steps": 4, "learning_rate": 0.1, "schedule": "cosine"}
    rates = learning_rates(tmp_path, **changes)
    num_falling = len(rates) - 4
    assert rates[3] == pytest.approx(0.1)
    assert rates[3 + num_falling // 2] == pytest.approx(0.05, abs=0.005)
    assert rates[-1] == pytest.approx(0)
    assert rates[3:] == sorted(rates[3:], reverse=True)


def lambdas(tmp_path, monkeypatch, **changes):
    run, _ = fitting(tmp_path, loss="decoupled", lambda1=0.4, lambda2=0.6, **changes)
    decoupled, seen = LOSSES["decoupled"], []

    def recording(hidden_ND, output, examples, settings):
        seen.append((settings.lambda1, settings.lambda2))
        return decoupled(hidden_ND, output, examples, settings)

    monkeypatch.setitem(LOSSES, "decoupled", recording)
    run.run()
    return seen


def test_falling_softness_ends_where_the_observed_item_is_all_that_counts(tmp_path, monkeypatch):
    seen = lambdas(tmp_path, monkeypatch, epochs=4, softness="falling")
    lambda1, lambda2 = zip(*seen, strict=True)
    assert seen[0] == pytest.approx((0.4, 0.6))
    assert seen[len(seen) // 2] == pytest.approx((0.2, 0.8))
    assert seen[-1] == pytest.approx((0.4 / len(seen), 1 - 0.4 / len(seen)))
    assert list(lambda1) == sorted(lambda1, reverse=True)
    assert list(lambda2) == sorted(lambda2)


def test_validation_weighs_its_parts_as_the_epochs_mean_did(tmp_path, monkeypatch):
    told = []

    def validate():
        now = run.settings_of_epoch()
        told.append((now.lambda1, now.lambda2))
        return {"validation_ndcg_10": float(len(told))}

    changes = {"lambda1": 0.4, "lambda2": 0.6, "softness": "falling", "epochs": 3}
    run, _ = fitting(tmp_path, validate, **changes)
    seen = []
    softened = run._softened
    run._softened = lambda step: seen.append(softened(step)) or seen[-1]
    run.run()
    num = run.windows.num_batches
    used = [(s.lambda1, s.lambda2) for s in seen]
    for epoch, found in enumerate(told):
        start = epoch * (num + 1)  # the epoch's steps, and validation's own question after them
        of_steps = used[start : start + num]
        assert found == pytest.approx(tuple(np.mean(of_steps, axis=0)))


def test_constant_softness_stays(tmp_path, monkeypatch):
    assert set(lambdas(tmp_path, monkeypatch, epochs=2)) == {(0.4, 0.6)}


@pytest.mark.parametrize("backbone", BACKBONES)
def test_bfloat16_learns_what_float32_does(tmp_path, backbone):
    changes = {"backbone": backbone, "dropout": 0.0, "learning_rate": 0.01}
    exact = fitting(tmp_path, fingerprint="exact", **changes)[0].run()
    low = fitting(tmp_path, fingerprint="low", precision="bfloat16", **changes)[0].run()
    assert {tensor.dtype for tensor in low.best_weights.values()} == {torch.float32}
    losses = [progress.epochs[-1]["train_loss"] for progress in (exact, low)]
    assert losses[1] == pytest.approx(losses[0], rel=0.05)
    assert losses[1] != losses[0]


def test_bfloat16_is_fast_on_gpus_and_on_cpus_with_instructions_for_it():
    assert has_fast("float32", torch.device("cpu"))
    assert has_fast("bfloat16", torch.device("cuda", 0))
    flags = Path("/proc/cpuinfo").read_text().split()
    assert has_fast("bfloat16", torch.device("cpu")) == ("avx512bw" in flags)


def test_the_parts_of_the_loss_add_up_to_it(tmp_path):
    _, told = run = fitting(tmp_path, epochs=1, loss="decoupled", lambda2=0.25)
    run[0].run()
    ((_, metrics),) = told
    parts = 0.25 * metrics["train_confidence"] + 0.75 * metrics["train_distribution"]
    assert metrics["train_loss"] == pytest.approx(parts)
