import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
import torch
from mlflow.tracking import MlflowClient
from safetensors.torch import load_file

from schemas.checkpoints import CHECKPOINTS, WEIGHTS_FILE
from schemas.errors import DataError
from schemas.items import ITEMS
from schemas.partitions import find, get
from schemas.sequences import SEQUENCES
from schemas.settings import RegistrySettings, Settings, TrainingSettings
from schemas.soft_targets import SOFT_TARGETS
from trainer.checkpointing import load
from trainer.preparation import move_to_recent_popularity
from trainer.sequences import Sequences
from trainer.tracking import configure
from trainer.training import epoch_line, inputs, main

DS = date(2017, 10, 31)
START = datetime(2017, 10, 1, tzinfo=UTC)
NUM_ITEMS, NUM_USERS = 12, 60
TINY = {"width": 8, "max_length": 5, "batch_size": 8, "num_threads": 1, "targets": "all"}


def user_row(u):
    """Goes through the items in order; the last two actions validate and are held out."""
    num = 5 + u % 7
    return {
        "user_id": f"user{u:03d}",
        "item_indices": [1 + (u + t) % NUM_ITEMS for t in range(num)],
        "event_times": [START + timedelta(days=t) for t in range(num)],
        "num_train": num - 2,
        "num_validation": 1,
        "num_holdout": 1,
    }


@pytest.fixture
def tables(publish_rows):
    """Tonight's inputs under `tmp_path`."""
    indices = range(1, NUM_ITEMS + 1)
    items = [
        {"item_index": i, "item_id": f"i{i}", "support": 9, "first_seen": START, "last_seen": START}
        for i in indices
    ]
    soft_targets = [
        {
            "kind": "item",
            "seed_id": f"i{i}",
            "item_indices": sorted({i, 1 + i % NUM_ITEMS}),
            "masses": [0.5, 0.5],
            "dropped_mass": 0.0,
        }
        for i in indices
    ]
    publish_rows(ITEMS, items)
    publish_rows(SEQUENCES, [user_row(u) for u in range(NUM_USERS)])
    of_rows = {"rows": NUM_ITEMS, "mean_seed_mass": 0.5, "mean_dropped_mass": 0.0}
    publish_rows(SOFT_TARGETS, sorted(soft_targets, key=lambda r: r["seed_id"]), item=of_rows)


@pytest.fixture(scope="module")
def store(tmp_path_factory, migrated_store):
    """One MLflow store for all tests here."""
    folder = tmp_path_factory.mktemp("store")
    (folder / "mlflow").mkdir()
    shutil.copy(migrated_store, folder / "mlflow")
    configure(folder, Settings())
    return f"sqlite:///{folder / 'mlflow' / 'mlflow.db'}"


@pytest.fixture
def train(tables, make_night, store, tmp_path):
    """Trains in this process with settings; returns the published partition."""

    def train(fingerprint=tmp_path.name, **changes):
        training = TrainingSettings(**TINY | {"epochs": 3} | changes)
        settings = Settings(training=training, registry=RegistrySettings(tracking_uri=store))
        night = make_night(settings, inputs=inputs(tmp_path, DS, settings))
        main(replace(night, fingerprint=fingerprint))
        return get(tmp_path, CHECKPOINTS, DS)

    return train


def test_a_checkpoint_tells_what_it_was_made_of(train, tmp_path):
    partition = train(loss="decoupled", backbone="gru4rec")
    (row,) = partition.read().to_pylist()
    digests = {
        f"{t.table}_digest": get(tmp_path, t, DS).manifest.content_digest
        for t in (ITEMS, SEQUENCES, SOFT_TARGETS)
    }
    assert {name: row[name] for name in digests} == digests
    assert (row["backbone"], row["loss"], row["num_items"]) == ("gru4rec", "decoupled", NUM_ITEMS)
    assert row["trained_until"] == date(2017, 10, 10)
    assert row["weights_sha256"] == partition.manifest.attachments[0]["sha256"]
    assert json.loads(row["settings"])["epochs"] == 3


def test_item_biases_move_by_what_validation_adds_to_popularity(tables, tmp_path):
    sequences = Sequences(get(tmp_path, SEQUENCES, DS))
    settings = TrainingSettings(**TINY | {"popularity_days": 0})
    weights = {"item_bias": torch.zeros(NUM_ITEMS)}
    move_to_recent_popularity(weights, sequences, NUM_ITEMS, settings)
    rows = [user_row(u) for u in range(NUM_USERS)]
    item = 4
    then = sum(r["item_indices"][: r["num_train"]].count(item) for r in rows)
    now = sum(r["item_indices"][: r["num_train"] + 1].count(item) for r in rows)
    assert now > then
    expected = math.log1p(now) - math.log1p(then)
    assert weights["item_bias"][item - 1].item() == pytest.approx(expected, rel=1e-6)


def test_a_published_checkpoint_loads_and_scores_every_item(train):
    backbone, settings = load(train())
    scores = backbone.score_next(torch.tensor([[1, 2, 3]]), torch.tensor([3]))
    assert torch.isfinite(scores[:, 1:]).all()
    assert settings.epochs == 3


def test_notes_hold_the_mlflow_run_and_every_epoch(train):
    notes = train().manifest.notes
    assert len(notes["mlflow_run_id"]) == 32
    assert len(notes["epochs"]) == 3
    assert notes["parameters"] > NUM_ITEMS * 8


def test_the_mlflow_run_shows_inputs_curves_of_both_parts_and_figures(train, store, tmp_path):
    run_id, client = train().manifest.notes["mlflow_run_id"], MlflowClient(store)
    tables = [get(tmp_path, table, DS).manifest for table in (SEQUENCES, ITEMS, SOFT_TARGETS)]
    run = client.get_run(run_id)
    logged = [one.dataset for one in run.inputs.dataset_inputs]
    digests = {one.name: json.loads(one.profile)["content_digest"] for one in logged}
    assert digests == {table.table: table.content_digest for table in tables}
    for part in ("loss", "confidence", "distribution"):
        for name in (f"train_{part}", f"validation_{part}"):
            points = client.get_metric_history(run_id, name)
            assert [point.step for point in points] == [1, 2, 3], name
            assert len({point.value for point in points}) == 3, name
    assert run.data.metrics["soft_targets/item/mean_seed_mass"] == 0.5
    assert (run.data.params["evaluation.exclude_seen"], run.data.params["width"]) == ("True", "8")
    figures = {Path(file.path).name for file in client.list_artifacts(run_id, "figures")}
    assert figures == {"curves.png", "soft_target_mass.png"}


def test_the_best_epochs_validation_is_in_the_row(train):
    partition = train()
    (row,) = partition.read().to_pylist()
    values = [e["validation_ndcg_10"] for e in partition.manifest.notes["epochs"]]
    assert row["validation_ndcg_10"] == max(values) > 0
    assert row["best_epoch"] == 1 + values.index(max(values))


def test_op23_notes_name_code_and_settings_without_addresses_that_may_hold_a_password(
    train, monkeypatch
):
    monkeypatch.setenv("PENUMBRA_COMMIT", "abc")
    provenance = train().manifest.notes["provenance"]
    assert provenance["commit"] == "abc"
    assert len(provenance["lock_sha256"]) == 64
    assert provenance["settings"]["training"]["width"] == 8
    assert "tracking_uri" not in provenance["settings"]["registry"]


def test_op02_training_again_gives_the_same_digest_and_the_same_mlflow_run(train):
    first, again = train("again"), train("again")
    assert first.manifest.run != again.manifest.run
    assert first.manifest.content_digest == again.manifest.content_digest
    assert first.manifest.notes["mlflow_run_id"] == again.manifest.notes["mlflow_run_id"]


@pytest.mark.parametrize("is_fast", [True, False])
def test_a_precision_that_is_slow_here_is_told(train, monkeypatch, capsys, is_fast):
    monkeypatch.setattr("trainer.training.has_fast", lambda *_: is_fast)
    train(epochs=1, precision="bfloat16")
    slow = "trainer.training: training.precision = bfloat16 on a CPU without instructions for it"
    assert (slow in capsys.readouterr().out) is not is_fast


def test_nothing_is_left_to_resume_after_publishing(train, tmp_path):
    train()
    assert not [p for p in (tmp_path / "resume").rglob("*") if p.is_file()]


def test_soft_targets_do_not_move_cross_entropy(train, tmp_path, publish_rows):
    before = train("before", loss="cross_entropy")
    row = {"kind": "item", "seed_id": "i1", "item_indices": [2], "masses": [1.0], "dropped_mass": 0}
    publish_rows(SOFT_TARGETS, [row])
    after = train("after", loss="cross_entropy")
    sha256 = [p.read().to_pylist()[0]["weights_sha256"] for p in (before, after)]
    assert sha256[0] == sha256[1]


def test_a_failed_training_leaves_the_checkpoint_published_before(train, tmp_path):
    good = train("good")
    with pytest.raises(DataError, match="a loss of nan"):
        train("bad", learning_rate=1e30)
    assert get(tmp_path, CHECKPOINTS, DS).manifest.run == good.manifest.run


def test_items_of_another_night_are_an_error(train, publish_rows):
    item = {"item_index": 1, "item_id": "i1", "support": 9}
    publish_rows(ITEMS, [item | {"first_seen": START, "last_seen": START}])
    with pytest.raises(DataError, match="item_index 12 in sequences"):
        train()


def test_an_epochs_line_leaves_validation_out_where_there_is_none():
    metrics = {"train_loss": 4.0, "train_confidence": 3.0, "train_distribution": 5.0}
    metrics |= {"validation_ndcg_10": 0.25, "seconds": 1.25}
    assert epoch_line(2, metrics) == (
        "epoch 2: loss 4.0000 (confidence 3.0000, distribution 5.0000), "
        "validation ndcg@10 0.2500, 1.2 s"
    )
    del metrics["validation_ndcg_10"]
    assert "validation" not in epoch_line(2, metrics)


def start_stage(root, store, **changes):
    """The real program, in a process of its own."""
    settings = TINY | {"epochs": 25, "patience": 25} | changes
    environment = {f"PENUMBRA_TRAINING__{k.upper()}": str(v) for k, v in settings.items()}
    environment |= {
        "PENUMBRA_REGISTRY__TRACKING_URI": store,
        "PENUMBRA_REGISTRY__EXPERIMENT": root.parent.name,
    }
    command = [sys.executable, "-m", "trainer.training", "--ds", str(DS), "--root", str(root)]
    return subprocess.Popen(
        command,
        cwd=root,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def kill_after(process, epoch):
    for line in process.stdout:
        if line.startswith(f"epoch {epoch}:"):
            process.send_signal(signal.SIGKILL)
            break
    _, errors = process.communicate()
    assert process.returncode == -signal.SIGKILL, errors


def finish(process):
    output, errors = process.communicate()
    assert process.returncode == 0, errors
    return output


@pytest.fixture
def root(tables, tmp_path):
    """The same inputs under a root of the real program's; `train` has `tmp_path`."""
    shutil.copytree(tmp_path / "tables", tmp_path / "root" / "tables")
    return tmp_path / "root"


def test_op01_a_training_killed_three_times_publishes_what_an_uninterrupted_one_does(
    root, store, train
):
    for epoch in (5, 10, 15):
        with start_stage(root, store) as process:
            kill_after(process, epoch)
        assert find(root, CHECKPOINTS, DS) is None
    with start_stage(root, store) as last:
        assert "resumed in epoch" in finish(last)
    expected, found = train(epochs=25, patience=25), get(root, CHECKPOINTS, DS)
    assert found.manifest.content_digest == expected.manifest.content_digest
    weights = [p.attachment(WEIGHTS_FILE).read_bytes() for p in (expected, found)]
    assert weights[0] == weights[1]
    client = MlflowClient(store)
    experiment = client.get_experiment_by_name(root.parent.name)
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_id == found.manifest.notes["mlflow_run_id"]
    points = client.get_metric_history(run.info.run_id, "train_loss")
    assert [point.step for point in points] == list(range(1, 26))


@pytest.mark.parametrize("loss", ["decoupled", "sampled_softmax"])
def test_two_processes_train_what_one_does_with_the_same_batches_and_leave_nothing(
    root, store, train, loss, tmp_path, monkeypatch
):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    exact = {"dropout": 0.0, "epochs": 4, "loss": loss}
    one = train(**exact)
    monkeypatch.setenv("TMPDIR", str(temporary))
    with start_stage(root, store, **exact, processes=2) as process:
        assert "epoch 4:" in finish(process)
    two = get(root, CHECKPOINTS, DS)
    for expected, found in zip(
        one.manifest.notes["epochs"], two.manifest.notes["epochs"], strict=True
    ):
        assert found["train_loss"] == pytest.approx(expected["train_loss"], rel=1e-4)
    expected, found = (load_file(p.attachment(WEIGHTS_FILE)) for p in (one, two))
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-3, atol=1e-4)
    if loss == "decoupled":  # both have nothing to do then, and end
        with start_stage(root, store, **exact, processes=2) as process:
            assert f"checkpoints {DS}: unchanged since" in finish(process)
    # torch has one folder of its own there for everything it ever compiles.
    assert {path.name.rsplit("_", 1)[0] for path in temporary.iterdir()} <= {"torchinductor"}


def test_an_error_of_two_processes_ends_both_and_says_why(root, store):
    with start_stage(root, store, learning_rate=1e30, processes=2) as process:
        _, errors = process.communicate()
    assert process.returncode == 65
    told = [line for line in errors.splitlines() if "(training.explosion)" in line]
    assert told and all(line.startswith("trainer.training: DataError: found") for line in told)
    assert "Traceback" not in errors


def children(pid):
    return [
        int(c) for f in Path(f"/proc/{pid}/task").glob("*/children") for c in f.read_text().split()
    ]


@pytest.mark.skipif(sys.platform != "linux", reason="children die with their parent on Linux only")
def test_no_process_outlives_a_killed_torchrun(root, store):
    with start_stage(root, store, epochs=10_000, patience=10_000, processes=2) as process:
        next(line for line in process.stdout if line.startswith("epoch 1:"))
        workers = children(process.pid)
        process.kill()
        process.stdout.close()
    assert len(workers) == 2
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{pid}").exists() for pid in workers):
        assert time.monotonic() < deadline
        time.sleep(0.1)
