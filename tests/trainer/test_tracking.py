import os

import pytest

from schemas.settings import RegistrySettings, Settings, TrainingSettings
from trainer.tracking import configure, track

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
    assert found.data.tags["ds"] == "2017-10-31"
    curve = run.client.get_metric_history(run.id, "train_loss")
    assert [(m.step, m.value) for m in curve] == [(1, 2.5), (2, 2.0)]
    assert found.info.status == "FINISHED"


def test_the_same_fingerprint_continues_the_same_run(root):
    first, again, other = start(root, "same"), start(root, "same"), start(root, "different")
    assert first.id == again.id != other.id


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
    with start(root, "fails"):
        pass
    assert run.client.get_run(run.id).info.status == "FINISHED"
