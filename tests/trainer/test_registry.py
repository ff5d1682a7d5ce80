from datetime import date

import pytest

from schemas.errors import RegistryError
from trainer import artifact
from trainer import registry as registry_module
from trainer.registry import CANDIDATE, champion
from trainer.versions import CHAMPION

ITEM_IDS = [f"item-{n}" for n in range(12)]


@pytest.fixture
def items(publish_items):
    return publish_items(ITEM_IDS)


@pytest.fixture
def checkpoint(items, publish_model):
    return publish_model(items, trained_until=date(2017, 10, 24))


class Crash(BaseException):
    """A process that dies here."""


def crash(*args, **kwargs):
    raise Crash


def versions(registry):
    return registry.client.search_model_versions(f"name = '{registry.name}'")


def test_before_the_first_promotion_there_is_no_champion(registry, checkpoint, items):
    assert registry.champion() is None
    registry.register(checkpoint, items)
    assert registry.champion() is None


def test_a_version_knows_its_weights_night_and_data(registry, checkpoint, items):
    (row,) = checkpoint.read().to_pylist()
    version = registry.register(checkpoint, items)
    assert version.number == 1
    assert version.weights_sha256 == row["weights_sha256"]
    assert (version.ds, version.trained_until) == (date(2017, 10, 31), date(2017, 10, 24))


def test_a_version_carries_the_digests_of_what_it_was_trained_on(registry, checkpoint, items):
    registry.register(checkpoint, items)
    (found,) = versions(registry)
    assert found.tags["penumbra.items_digest"] == items.manifest.content_digest
    assert found.tags["penumbra.fingerprint"] == "fingerprint"
    assert found.tags["penumbra.checkpoint_run"] == checkpoint.manifest.run


def test_the_alias_names_the_champion(registry, checkpoint, items):
    version = registry.register(checkpoint, items)
    registry.point(CHAMPION, version)
    assert champion(registry.root, registry.settings) == version


def test_op07_registering_twice_makes_one_version(registry, checkpoint, items):
    assert registry.register(checkpoint, items) == registry.register(checkpoint, items)
    assert len(versions(registry)) == 1


@pytest.mark.parametrize("step", ["create_model_version", "set_registered_model_alias"])
def test_op07_a_retry_after_a_crash_makes_no_second_version(
    registry, checkpoint, items, monkeypatch, step
):
    with monkeypatch.context() as broken, pytest.raises(Crash):
        broken.setattr(registry_module.MlflowClient, step, crash)
        registry.point(CANDIDATE, registry.register(checkpoint, items))
    version = registry.register(checkpoint, items)
    registry.point(CANDIDATE, version)
    assert registry.aliased(CANDIDATE) == version
    assert len(versions(registry)) == 1


def test_op07_a_crash_while_the_artifact_is_stored_leaves_no_version(
    registry, checkpoint, items, monkeypatch
):
    with monkeypatch.context() as broken, pytest.raises(Crash):
        broken.setattr(artifact, "log", crash)
        registry.register(checkpoint, items)
    assert not versions(registry)
    assert registry.register(checkpoint, items).number == 1


def test_other_weights_are_another_version(registry, checkpoint, items, publish_model):
    first = registry.register(checkpoint, items)
    second = registry.register(publish_model(items, seed=2), items)
    assert (first.number, second.number) == (1, 2)


def test_a_changed_artifact_is_named(registry, checkpoint, items):
    version = registry.register(checkpoint, items)
    weights = registry.download(version) / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    with pytest.raises(RegistryError, match="version 1 of penumbra with weights"):
        registry.download(version)


@pytest.mark.parametrize("name", ["items.parquet", "settings.json"])
def test_an_artifact_without_what_its_weights_need_is_named(registry, checkpoint, items, name):
    version = registry.register(checkpoint, items)
    (registry.download(version) / name).unlink()
    with pytest.raises(RegistryError, match=f"version 1 of penumbra with no {name}"):
        registry.download(version)


def test_a_missing_artifact_is_named(registry, checkpoint, items):
    version = registry.register(checkpoint, items)
    (registry.download(version) / "weights.safetensors").unlink()
    with pytest.raises(RegistryError, match=r"version 1 of penumbra with no artifact") as error:
        registry.register(checkpoint, items)
    assert error.value.fix == "restore the artifact store"
    registry.point(CHAMPION, version)
    with pytest.raises(RegistryError, match=r"store, or python -m trainer\.registry rollback"):
        registry.download(version)


def test_a_version_that_was_never_made_is_named(registry, checkpoint, items):
    registry.register(checkpoint, items)
    with pytest.raises(RegistryError, match="no version 7 of penumbra"):
        registry.get(7)


def test_a_champion_that_someone_else_registered_is_named(registry):
    registry.client.create_registered_model(registry.name)
    registry.client.create_model_version(registry.name, "file:///elsewhere")
    registry.client.set_registered_model_alias(registry.name, CHAMPION, "1")
    with pytest.raises(RegistryError, match=r"without the tag 'penumbra\.weights_sha256'"):
        registry.champion()
