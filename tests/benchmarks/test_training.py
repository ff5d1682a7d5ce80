"""Every rival of the training benchmark computes what ours does; times are never asserted."""

import numpy as np
import pytest
import torch

from benchmarks.report import Finding
from benchmarks.training import COMPARISONS, PARTS, parse, scores
from benchmarks.training_epoch import SETTINGS, our_epoch
from benchmarks.training_report import Comparison, TrainingReport, limit
from benchmarks.training_rivals import metrics_by_sorting
from benchmarks.training_steps import Shape, alternate, batch, own_bytes, start_of_peak
from trainer.metrics import user_metrics

LAST_COUNTS = Shape(300, batch_size=8, length=6, counted=1, num_entries=10, width=16)
ALL_COUNT = Shape(300, batch_size=8, length=6, counted=6, num_entries=10, width=16)
MEGABYTES = 10**6


@pytest.fixture(autouse=True)
def _torch_as_it_was():
    threads, is_deterministic = (
        torch.get_num_threads(),
        torch.are_deterministic_algorithms_enabled(),
    )
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(is_deterministic)


@pytest.mark.parametrize("shape", [LAST_COUNTS, ALL_COUNT])
@pytest.mark.parametrize(("ours", "rival"), [("decoupled", "dense"), ("cross_entropy", "plain")])
def test_rivals_train_to_the_same_losses_step_after_step(shape, ours, rival):
    found = alternate([ours, rival], shape, num_steps=4)
    np.testing.assert_allclose(found[ours].losses, found[rival].losses, rtol=1e-4)
    assert len(set(found[ours].losses)) == 4


def test_sorting_all_scores_gives_the_same_metrics():
    scored = scores(num_users=20, num_items=400, seed=3)
    counted, by_sorting = user_metrics(*scored), metrics_by_sorting(*scored)
    assert counted.keys() == by_sorting.keys()
    for name, values in counted.items():
        np.testing.assert_array_equal(values, by_sorting[name])
    assert counted["recall@20"].any()


def test_a_generated_soft_target_names_no_item_twice_and_never_the_target():
    examples = batch(ALL_COUNT, seed=1).examples
    assert (examples.items_NK.diff(dim=1) > 0).all()
    assert (examples.items_NK != examples.targets_N[:, None]).all()
    assert examples.items_NK.min() >= 1
    assert examples.items_NK.max() <= 300


def test_generated_masses_sum_to_one():
    examples = batch(ALL_COUNT, seed=1).examples
    sums = examples.masses_NK.sum(1) + examples.target_masses_N
    torch.testing.assert_close(sums, torch.ones(48))


def test_the_last_positions_of_every_history_count():
    shape = Shape(300, batch_size=2, length=5, counted=2, num_entries=10)
    assert batch(shape, seed=1).positions_N.tolist() == [3, 4, 8, 9]


def test_the_peak_begins_anew_at_what_is_resident():
    held = bytearray(b"1" * 100 * MEGABYTES)
    del held
    before = start_of_peak()
    assert own_bytes("VmHWM") < before + 50 * MEGABYTES
    held = bytearray(b"1" * 100 * MEGABYTES)
    del held
    assert own_bytes("VmHWM") > before + 90 * MEGABYTES


def run(program, seconds, **peaks):
    return {"part": "a", "on": "some", "program": program, "seconds": seconds, **peaks}


def test_times_are_compared_by_their_medians():
    runs = [run("ours", [1.0, 9.0, 2.0]), run("other", [3.0, 4.0, 100.0])]
    found = Comparison("a", "ours", "other", 1.15).finding(runs)
    expected = ("some", "ours against other", "2.000 s", "4.000 s", 0.5, "× its time", 1.15)
    assert found == Finding(*expected)
    found = Comparison("a", "ours", "other", 3.0, "speed").finding(runs)
    assert (found.value, found.is_reached) == (2.0, False)


def test_memory_is_compared_by_what_steps_added():
    runs = [
        run("ours", [1.0]),
        run("ours", [1.0], resident_peak=900 * MEGABYTES, added_peak=200 * MEGABYTES),
        run("other", [1.0], resident_peak=1700 * MEGABYTES, added_peak=1000 * MEGABYTES),
    ]
    found = Comparison("a", "ours", "other", 0.40, "memory").finding(runs)
    assert (found.ours, found.other, found.value) == ("0.20 GB", "1.00 GB", 0.2)


def test_what_was_not_measured_is_not_compared():
    assert Comparison("a", "ours", "other", 1.15).finding([run("ours", [1.0])]) is None


def test_a_million_items_are_held_to_the_memory_of_the_whole_process():
    peak = {"resident_peak": 7_000 * MEGABYTES, "added_peak": 100 * MEGABYTES}
    found, information = limit(run("full", [40.0, 42.0], **peak), 6.0)
    assert (found.ours, found.is_reached) == ("7.00 GB", False)
    assert (information.ours, information.is_reached) == ("41.000 s", None)


def test_the_report_shows_every_measurement(tmp_path):
    about = {"command": "x", "date": "2017-10-31", "machine": {"cores": 2}, "versions": {"y": "1"}}
    runs = [run("ours", [1.5, 2.0], resident_peak=9 * 10**8, added_peak=2 * 10**8)]
    TrainingReport(about, [], runs).write(tmp_path)
    last = (tmp_path / "training.md").read_text().splitlines()[-1]
    assert last == "| some | ours | 1.500, 2.000 | 0.90 GB | 0.20 GB |"


def test_only_the_whole_benchmark_may_change_the_published_results(tmp_path):
    whole = ["--root", str(tmp_path)]
    assert parse(whole).results.parts[-2:] == ("benchmarks", "results")
    parts = (["--parts", "ranks"], ["--scale", "0.1"], ["--repetitions", "4"])
    assert {parse([*whole, *part]).results for part in parts} == {tmp_path / "results"}


def test_every_part_can_be_measured_alone():
    assert set(PARTS) == {c.part for c in COMPARISONS} | {"million"}


def test_our_epoch_predicts_every_action_but_the_first(tmp_path):
    file = tmp_path / "movielens-5.npz"
    np.savez(file, items=np.array([1, 2, 3, 2, 1, 3, 3]), offsets=np.array([0, 5, 7]))
    tiny = SETTINGS.model_copy(update={"width": 8, "max_length": 4, "batch_size": 2})
    found = our_epoch(file, tiny)
    assert found["examples"] == 5
    assert found["loss"] == pytest.approx(np.log(3), rel=0.2)
