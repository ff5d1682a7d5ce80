"""Explanation: where a model version comes from, back to the event files."""

import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

from schemas.checkpoints import CHECKPOINTS
from schemas.errors import RegistryError
from schemas.partitions import MANIFEST, Input, Manifest
from trainer.operations import gate_record
from trainer.registry import TAG, Registry
from trainer.versions import Version


def explain(registry: Registry, version: Version) -> dict[str, Any]:
    """Everything that made a version; what was never recorded is `unknown`.

    Returns:
        Commit, lock digest, DAG run, MLflow run, settings, the gate's record, and as `lineage` one
        row per table, model or file that was read on the way: table, ds, run, digest.

    Raises:
        RegistryError: The checkpoint's manifest is gone.
    """
    source, manifest = _checkpoint(registry, version)
    known = manifest.notes.get("provenance", {})
    facts = {"version": version.number, "ds": source.ds, "weights_sha256": version.weights_sha256}
    facts |= {name: known.get(name, "unknown") for name in ("commit", "lock_sha256", "dag_run_id")}
    facts |= {"mlflow_run_id": manifest.notes.get("mlflow_run_id", "unknown")}
    facts |= {"settings": known.get("settings", "unknown"), "fingerprint": manifest.fingerprint}
    record = gate_record(registry, version)
    gate = {n: v if isinstance(v, int) else str(v) for n, v in record.items()} if record else None
    return facts | {"gate": gate, "lineage": [asdict(i) for i in _walk(registry, source)]}


def lineage(registry: Registry, version: Version) -> list[Input]:
    """Every table run, model and file that a version was made of, its checkpoint first.

    Raises:
        RegistryError: The checkpoint's manifest is gone.
    """
    return list(_walk(registry, _checkpoint(registry, version)[0]))


def _checkpoint(registry: Registry, version: Version) -> tuple[Input, Manifest]:
    tags = registry.client.get_model_version(registry.name, str(version.number)).tags
    source = Input(CHECKPOINTS.table, version.ds.isoformat(), tags[TAG + "checkpoint_run"], "")
    manifest = _manifest(registry, source)
    if manifest is None:
        raise RegistryError(
            f"no manifest of run {source.run} of {source.table} {source.ds}",
            f"the one that version {version.number} was registered from",
            "restore the tables folder",
        )
    return replace(source, digest=manifest.content_digest), manifest


def _walk(registry: Registry, source: Input) -> Iterator[Input]:
    """A thing and all that it was made of, each once, nearest first."""
    seen, waiting = {source}, [source]
    while waiting:
        found = waiting.pop(0)
        yield found
        manifest = _manifest(registry, found)
        for row in manifest.inputs if manifest else ():
            if (item := Input(**row)) not in seen:
                seen.add(item)
                waiting.append(item)


def _manifest(registry: Registry, item: Input) -> Manifest | None:
    """The manifest of a table's run; None of a file, a model, or a run that is gone."""
    folder = registry.root / "tables" / item.table
    found = sorted(folder.glob(f"v*/ds={item.ds}/run={item.run}/{MANIFEST}"))
    return Manifest(**json.loads(found[-1].read_text())) if found else None
