import json
import os
import sys
import threading
import time
from datetime import UTC, datetime

import pytest
from matplotlib.figure import Figure
from mlflow.tracking import MlflowClient

from schemas.items import ITEMS
from schemas.settings import RegistrySettings, Settings, TrainingSettings
from trainer import tracking
from trainer.tracking import configure, find_run, track

SETTINGS = Settings(training=TrainingSettings(epochs=3))
EPOCH = {"train_loss": 2.5, "train_confidence": 1.5, "train_distribution": 3.5}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """One store for all tests here: making it takes MLflow seconds."""
    root = tmp_path_factory.mktemp("tracking")
    configure(root, SETTINGS)
    return root


def start(root, fingerprint, **tags):
    return track(root, SETTINGS, "training 2017-10-31", fingerprint, tags)


def test_the_store_lies_under_the_root(root):
    experiment = configure(root, SETTINGS).get_experiment_by_name("penumbra")
    assert (root / "mlflow" / "mlflow.db").is_file()
    assert experiment.artifact_location == str(root / "mlflow" / "artifacts")


def test_telemetry_is_off():
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"


def test_a_tracking_address_takes_the_place_of_the_store_under_the_root(root, tmp_path):
    address = f"sqlite:///{root / 'mlflow' / 'mlflow.db'}"
    registry = RegistrySettings(tracking_uri=address, experiment="elsewhere")
    client = configure(tmp_path, Settings(registry=registry))
    assert client.get_experiment_by_name("elsewhere") is not None
    assert not (tmp_path / "mlflow" / "mlflow.db").exists()


def test_a_run_holds_settings_tags_and_a_curve_per_metric(root):
    with start(root, "curve", ds="2017-10-31") as run:
        run.log_epoch(1, EPOCH)
        run.log_epoch(2, EPOCH | {"train_loss": 2.0})
    found = run.client.get_run(run.id)
    assert found.data.params["epochs"] == "3"
    assert found.data.params["item_graph.normaliser"] == "cosine"
    assert found.data.tags["ds"] == "2017-10-31"
    curve = run.client.get_metric_history(run.id, "train_loss")
    assert [(m.step, m.value) for m in curve] == [(1, 2.5), (2, 2.0)]
    assert found.info.status == "FINISHED"


def test_the_same_fingerprint_continues_the_same_run(root):
    first, again, other = start(root, "same"), start(root, "same"), start(root, "different")
    assert first.id == again.id != other.id


def test_a_run_that_was_killed_before_its_settings_were_logged_gets_them_all(root, monkeypatch):
    with monkeypatch.context() as killed:
        killed.setattr(MlflowClient, "log_batch", lambda *_, **__: sys.exit("killed"))
        with pytest.raises(SystemExit):
            start(root, "unlucky")
    run = start(root, "unlucky")
    assert run.client.get_run(run.id).data.params["item_graph.normaliser"] == "cosine"


def test_an_epoch_that_is_logged_already_is_not_logged_again(root):
    start(root, "twice").log_epoch(1, EPOCH)
    again = start(root, "twice")
    again.log_epoch(1, EPOCH)
    assert len(again.client.get_metric_history(again.id, "train_loss")) == 1


def test_facts_are_logged_once_with_their_path_as_name(root):
    facts = {"item": {"rows": 3, "validation": {"hit_rate": 0.5}, "plan": "broadcast"}}
    start(root, "facts").log_facts("soft_targets", facts)
    run = start(root, "facts")
    run.log_facts("soft_targets", facts)
    found = {"soft_targets/item/rows": 3.0, "soft_targets/item/validation/hit_rate": 0.5}
    assert run.client.get_run(run.id).data.metrics == found
    assert len(run.client.get_metric_history(run.id, "soft_targets/item/rows")) == 1


def test_an_error_ends_the_run_as_failed_and_a_later_success_as_finished(root):
    with pytest.raises(ZeroDivisionError), start(root, "fails") as run:
        1 / 0  # noqa: B018
    assert run.client.get_run(run.id).info.status == "FAILED"
    with start(root, "fails") as again:
        assert again.id == run.id
    assert run.client.get_run(run.id).info.status == "FINISHED"


def test_a_resumed_run_is_running_again(root):
    with start(root, "resumed") as first:
        assert first.client.get_run(first.id).info.status == "RUNNING"
    assert first.client.get_run(first.id).info.status == "FINISHED"
    with start(root, "resumed") as run:
        assert run.client.get_run(run.id).info.status == "RUNNING"


def test_the_subject_says_which_model_and_when(root):
    assert start(root, "subject").subject == "sasrec, decoupled loss, training 2017-10-31"


@pytest.fixture
def items(publish_rows):
    first_seen = datetime(2017, 10, 1, tzinfo=UTC)
    row = {"item_index": 1, "item_id": "milk", "support": 2}
    return publish_rows(ITEMS, [row | {"first_seen": first_seen, "last_seen": first_seen}])


def datasets(run):
    return run.client.get_run(run.id).inputs.dataset_inputs


def test_a_table_is_a_dataset_with_its_digest_columns_and_rows(root, items):
    run = start(root, "dataset")
    run.log_datasets([items])
    (found,) = datasets(run)
    digest = items.manifest.content_digest
    assert (found.dataset.name, found.dataset.digest) == ("items", digest[:36])
    profile = json.loads(found.dataset.profile)
    assert (profile["num_rows"], profile["content_digest"]) == (1, digest)
    columns = json.loads(found.dataset.schema)["mlflow_colspec"]
    assert [column["name"] for column in columns] == list(ITEMS.columns)
    assert json.loads(found.dataset.source) == {"uri": str(items.path)}
    assert [(tag.key, tag.value) for tag in found.tags] == [("mlflow.data.context", "training")]


def test_a_resumed_run_has_its_datasets_once(root, items):
    start(root, "once").log_datasets([items])
    again = start(root, "once")
    again.log_datasets([items])
    assert len(datasets(again)) == 1


def test_a_figure_is_saved_under_its_name(root):
    run = start(root, "figure")
    run.log_figures({"curves": Figure((1, 1))})
    (found,) = run.client.list_artifacts(run.id, "figures")
    assert found.path == "figures/curves.png"
    assert found.file_size > 0


SAMPLED = "system/system_memory_usage_megabytes"


def wait_for_sample(run, step):
    """Until system metrics have been logged up to a step; an error after 20 seconds."""
    until = time.monotonic() + 20
    while time.monotonic() < until:
        if step in {m.step for m in run.client.get_metric_history(run.id, SAMPLED)}:
            return
        time.sleep(0.02)
    raise TimeoutError(f"no sample of step {step}")


def test_system_metrics_go_on_after_the_last_step_and_end_with_the_run(root, monkeypatch, caplog):
    monkeypatch.setattr(tracking, "SECONDS_BETWEEN_SAMPLES", 0.02)
    with start(root, "system") as run:
        wait_for_sample(run, 0)
    first = [m.step for m in run.client.get_metric_history(run.id, SAMPLED)]
    with pytest.raises(ZeroDivisionError), start(root, "system") as run:
        wait_for_sample(run, max(first) + 1)
        1 / 0  # noqa: B018
    steps = [m.step for m in run.client.get_metric_history(run.id, SAMPLED)]
    assert sorted(steps) == list(range(len(steps)))
    assert "SystemMetricsMonitor" not in {thread.name for thread in threading.enumerate()}
    assert caplog.records == []


def test_without_psutil_there_are_no_system_metrics(root, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with start(root, "plain") as run:
        assert "SystemMetricsMonitor" not in {thread.name for thread in threading.enumerate()}
    assert run.client.get_run(run.id).info.status == "FINISHED"


def test_a_run_is_found_by_its_id(root):
    run = start(root, "found")
    assert find_run(root, SETTINGS, run.id).id == run.id


@pytest.mark.parametrize("run_id", [None, "", "0" * 32, "not/an/id"])
def test_a_run_that_never_was_is_not_found(root, run_id):
    assert find_run(root, SETTINGS, run_id) is None


def test_a_deleted_run_is_not_found(root):
    run = start(root, "deleted")
    run.client.delete_run(run.id)
    assert find_run(root, SETTINGS, run.id) is None
