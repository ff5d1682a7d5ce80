"""Registry and promotion over HTTP: MLflow's own server, on Postgres."""

import atexit
import tempfile
from dataclasses import replace
from datetime import date, timedelta

import mlflow
import pandas as pd
import pytest
import requests
import sqlalchemy
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from schemas.audit import file_sha256
from schemas.errors import RegistryError
from schemas.publishing import new_token
from schemas.scratch import scratch_folder
from trainer import promotion
from trainer.ledger import decisions
from trainer.registry import Registry
from trainer.versions import CHAMPION

DS = date(2017, 10, 31)
GOOD, BETTER = [0.5] * 4, [0.6] * 4


def run(night):
    """The stage, in this process; returns the ledger of its night."""
    promotion.main(night)
    return decisions(night.root, night.ds)


def with_canary(night):
    gate = night.settings.gate.model_copy(update={"canary_users": 2})
    night.settings = night.settings.model_copy(update={"gate": gate})
    return night


def aliases(registry):
    return registry.client.get_registered_model(registry.name).aliases


def test_two_nights_promote_through_the_server_and_the_champion_predicts(registry, night_of):
    run(night_of(GOOD))
    (row,) = run(with_canary(night_of(BETTER, DS + timedelta(days=1))))
    assert (row["outcome"], row["candidate_version"], row["champion_version"]) == ("promote", 2, 1)
    assert '"rule": "canary"' in row["rules"]
    assert aliases(registry) == {"candidate": "2", "champion": "2", "previous": "1"}
    weights = registry.download(registry.champion()) / "weights.safetensors"
    assert file_sha256(weights) == row["candidate_digest"]
    model = mlflow.pyfunc.load_model(f"models:/{registry.name}@champion")
    answer = model.predict(pd.DataFrame({"history": [["item-1"]], "k": [3]}))
    assert len(answer["item_id"][0]) == 3


def test_what_is_downloaded_from_the_server_goes_with_the_process(
    registry, publish_items, publish_model, tmp_path, monkeypatch
):
    items = publish_items([f"item-{n}" for n in range(12)])
    version = registry.register(publish_model(items), items)
    scratch, at_exit = tmp_path / "scratch", []
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    monkeypatch.setattr(atexit, "register", lambda *call, **named: at_exit.append((call, named)))
    scratch_folder.cache_clear()
    folders = {registry.download(version) for _ in range(2)}
    assert len(folders) == 2 and all((f / "weights.safetensors").is_file() for f in folders)
    (((remove, *arguments), named),) = at_exit
    remove(*arguments, **named)
    assert not list(scratch.iterdir())
    scratch_folder.cache_clear()


def test_the_registry_lies_in_postgres(registry, night_of, postgres):
    run(night_of(GOOD))
    engine = sqlalchemy.create_engine(postgres)
    with engine.connect() as connection:
        query = sqlalchemy.text("select version from registered_model_aliases where name = :name")
        found = connection.execute(query, {"name": registry.name}).scalars().all()
        version = connection.execute(sqlalchemy.text("select version()")).scalar_one()
    engine.dispose()
    assert found == [1, 1]
    assert version.startswith("PostgreSQL")


def test_op07_registering_twice_makes_one_version(registry, publish_items, publish_model):
    items = publish_items([f"item-{n}" for n in range(12)])
    checkpoint = publish_model(items)
    assert registry.register(checkpoint, items) == registry.register(checkpoint, items)
    assert len(registry.client.search_model_versions(f"name = '{registry.name}'")) == 1


def test_before_the_first_promotion_there_is_no_champion_and_no_version(registry):
    assert registry.champion() is None
    with pytest.raises(RegistryError, match="no version 1 of"):
        registry.get(1)


def test_a_missing_artifact_of_a_server_is_named(registry, night_of):
    run(night_of(GOOD))
    version = registry.champion()
    source = registry.client.get_model_version(registry.name, "1").source
    model = registry.client.get_logged_model(source.removeprefix("models:/"))
    get_artifact_repository(model.artifact_location).delete_artifacts()
    with pytest.raises(RegistryError, match=r"version 1 of .* with no artifact"):
        registry.download(version)


def test_op07_a_promotion_whose_server_was_killed_is_finished_after_its_restart(
    registry, night_of, tracking_server, monkeypatch
):
    """OP 17: meanwhile, a server that is away is not taken for a missing version."""
    run(night_of(GOOD))
    version = registry.champion()
    night, real = night_of(BETTER, DS + timedelta(days=1)), Registry.point

    def kill_before(self, name, version):
        if name == CHAMPION:
            tracking_server.kill()
        real(self, name, version)

    try:
        with monkeypatch.context() as broken:
            broken.setattr(Registry, "point", kill_before)
            broken.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
            with pytest.raises((mlflow.MlflowException, requests.ConnectionError)):
                promotion.main(night)
            for ask in (lambda: registry.get(1), lambda: registry.download(version)):
                with pytest.raises((mlflow.MlflowException, requests.ConnectionError)):
                    ask()
        assert [row["outcome"] for row in decisions(night.root, night.ds)] == ["promote"]
    finally:
        tracking_server.start()
    assert registry.champion() == version
    assert registry.download(version).is_dir()
    (row,) = run(replace(night, token=new_token()))
    assert (row["outcome"], row["candidate_version"]) == ("promote", 2)
    assert aliases(registry) == {"candidate": "2", "champion": "2", "previous": "1"}
    assert registry.champion().weights_sha256 == row["candidate_digest"]
    assert registry.download(registry.champion()).is_dir()
