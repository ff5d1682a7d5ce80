"""Registry: model versions, their tags and the aliases that say which one serves.

Every version carries where it came from as tags (`penumbra.weights_sha256`, `penumbra.ds`, ...);
a version is found again by its weights, so registering twice registers once. The aliases are
`candidate` (registered last), `champion` (serves) and `previous` (served before it).
"""

import sys
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp

import mlflow
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository
from mlflow.store.artifact.models_artifact_repo import ModelsArtifactRepository
from mlflow.tracking import MlflowClient

from schemas.audit import file_sha256
from schemas.checkpoints import WEIGHTS_FILE
from schemas.collector import at_work
from schemas.errors import RegistryError
from schemas.partitions import Partition
from schemas.scratch import scratch_folder
from schemas.settings import Settings
from trainer import artifact, scorer_files, tracking
from trainer.versions import CHAMPION, Version

CANDIDATE, PREVIOUS = "candidate", "previous"
TAG = "penumbra."
DELETED = "artifact_deleted"
"""Tag of a version whose artifact was collected (`trainer/garbage.py`)."""
ABSENT = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
"""MLflow's error codes for what is not there; any other error is its server's, and may pass."""


@dataclass(frozen=True)
class Registry:
    """The registered model of these settings, in the store of these settings."""

    root: Path
    settings: Settings

    @cached_property
    def client(self) -> MlflowClient:
        """MLflow, configured at its first use."""
        return tracking.configure(self.root, self.settings)

    @property
    def is_there(self) -> bool:
        """Whether there is a store; a server's is taken to be."""
        uri = self.settings.registry.tracking_uri
        return bool(uri) or tracking.store_of(self.root).is_file()

    @property
    def name(self) -> str:
        """The registered model that carries the aliases."""
        return self.settings.registry.model_name

    def aliased(self, alias: str) -> Version | None:
        """The version under an alias, None where there is none."""
        try:
            return _version(self.client.get_model_version_by_alias(self.name, alias))
        except MlflowException as error:
            if error.error_code in ABSENT:
                return None
            raise

    def champion(self) -> Version | None:
        """The version that serves, None before the first promotion."""
        return self.aliased(CHAMPION)

    def get(self, number: int) -> Version:
        """A version by its number.

        Raises:
            RegistryError: There is no such version.
        """
        try:
            return _version(self.client.get_model_version(self.name, str(number)))
        except MlflowException as error:
            if error.error_code not in ABSENT:
                raise
            raise RegistryError(
                f"no version {number} of {self.name}",
                "the versions that the promotions table names",
                "restore the registry, or correct registry.tracking_uri in the settings",
            ) from error

    def versions(self) -> list[Version]:
        """All versions, in no order."""
        found, token = list[ModelVersion](), None
        while token != "":
            page = self.client.search_model_versions(f"name = '{self.name}'", page_token=token)
            found, token = [*found, *page], page.token or ""
        return [_version(one) for one in found]

    def registered(self, weights_sha256: str) -> Version | None:
        """The version that has these weights; None where none had, or their artifact is deleted."""
        wanted = f"name = '{self.name}' and tags.`{TAG}weights_sha256` = '{weights_sha256}'"
        found = self.client.search_model_versions(wanted, order_by=["version_number ASC"])
        kept = [one for one in found if TAG + DELETED not in one.tags]
        return _version(kept[0]) if kept else None

    def register(self, checkpoint: Partition, items: Partition) -> Version:
        """The version of a night's model, made if the registry does not have its weights.

        The artifact is complete before the version exists, and the version is found by the
        digest of its weights: a retry after a crash at any point makes no second version.

        Args:
            checkpoint: A partition of the checkpoints table.
            items: The items table it was trained on.

        Raises:
            RegistryError: The stored artifact does not hold these weights.
        """
        (row,) = checkpoint.read().to_pylist()
        version = self.registered(row["weights_sha256"])
        if version is None:
            tags = _tags(checkpoint)
            address = self._log(checkpoint, items, tags)
            self._create_registered_model()
            run_id = checkpoint.manifest.notes.get("mlflow_run_id")
            made = self.client.create_model_version(
                self.name, address, run_id, tags, model_id=address.removeprefix("models:/")
            )
            version = _version(made)
        self.download(version)
        return version

    def download(self, version: Version) -> Path:
        """The folder of a version's scorer, on this machine, its weights verified.

        What comes from elsewhere is gone when this process ends.

        Raises:
            RegistryError: The artifact is missing, or its weights are not those of the version.
        """
        _ = self.client
        address = f"models:/{self.name}/{version.number}/artifacts/model"
        try:
            folder = self._folder_of(version)
            found = f"weights {file_sha256(folder / WEIGHTS_FILE)}"
            missing = [name for name in scorer_files.NAMES if not (folder / name).is_file()]
            found = f"no {missing[0]}" if missing else found
        except (MlflowException, OSError) as error:
            if self._has_weights(address):
                raise
            found = f"no artifact ({error})"
        if found != f"weights {version.weights_sha256}":
            # A night that is repeated registers weights again whose artifact was collected.
            tags = self.client.get_model_version(self.name, str(version.number)).tags
            mend, champion = "restore the artifact store", self.champion()
            if TAG + DELETED in tags:
                mend += f", or re-run the night of {version.ds}"
            elif champion and champion.number == version.number:
                mend += ", or python -m trainer.registry rollback --reason 'no artifact'"
            raise RegistryError(
                f"version {version.number} of {self.name} with {found}",
                f"weights {version.weights_sha256}",
                mend,
            )
        return folder

    def point(self, alias: str, version: Version) -> None:
        """Sets an alias. Hold the lock of `promotion` for `champion` and `previous`."""
        self.client.set_registered_model_alias(self.name, alias, str(version.number))

    def tag(self, version: Version, tags: dict[str, str]) -> None:
        """Adds tags, named without the prefix, to a version."""
        for key, value in tags.items():
            self.client.set_model_version_tag(self.name, str(version.number), TAG + key, value)

    def _folder_of(self, version: Version) -> Path:
        artifacts = ModelsArtifactRepository(f"models:/{self.name}/{version.number}")
        store = artifacts.repo
        while isinstance(store, ModelsArtifactRepository):
            store = store.repo
        target = None
        if not isinstance(store, LocalArtifactRepository):
            # MLflow would leave its copy for somebody else to remove.
            target = mkdtemp(dir=scratch_folder("models-"))
        return Path(artifacts.download_artifacts("artifacts/model", target))

    def _has_weights(self, address: str) -> bool:
        """Whether an artifact is there, so that what kept it from coming may pass."""
        listed = mlflow.artifacts.list_artifacts(artifact_uri=address)
        return WEIGHTS_FILE in {Path(file.path).name for file in listed}

    def _log(self, checkpoint: Partition, items: Partition, tags: dict[str, str]) -> str:
        _ = self.client
        mlflow.set_experiment(self.settings.registry.experiment)
        with TemporaryDirectory() as temporary:
            folder = Path(temporary) / "model"
            folder.mkdir()
            scorer_files.write(folder, checkpoint, items)
            return artifact.log(folder, self.name, tags)

    def _create_registered_model(self) -> None:
        try:
            self.client.create_registered_model(self.name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise


def champion(root: Path, settings: Settings) -> Version | None:
    """The version that serves, None before the first promotion."""
    return Registry(root, settings).champion()


def _tags(checkpoint: Partition) -> dict[str, str]:
    """What a version says of itself: the checkpoint's row, and the run that published it."""
    (row,) = checkpoint.read().to_pylist()
    facts = {name: value for name, value in row.items() if name != "settings"}
    facts |= {"ds": checkpoint.manifest.ds, "checkpoint_run": checkpoint.manifest.run}
    facts |= {"fingerprint": checkpoint.manifest.fingerprint}
    facts |= {"split": checkpoint.manifest.notes.get("split", "")}
    return {TAG + name: str(value) for name, value in facts.items()}


def _version(found: ModelVersion) -> Version:
    try:
        return Version(
            int(found.version),
            found.tags[TAG + "weights_sha256"],
            date.fromisoformat(found.tags[TAG + "ds"]),
            date.fromisoformat(found.tags[TAG + "trained_until"]),
            found.tags.get(TAG + "split", ""),
        )
    except KeyError as error:
        raise RegistryError(
            f"version {found.version} of {found.name} without the tag {error}",
            "versions that trainer.promotion registered",
            "the alias that names it, or registry.model_name in the settings",
        ) from error


if __name__ == "__main__":
    from trainer.registry_commands import main

    with at_work():
        sys.exit(main(sys.argv[1:]))
