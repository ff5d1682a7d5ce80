from datetime import date

import pyarrow as pa
import pytest

from schemas.checkpoints import CHECKPOINTS, WEIGHTS_FILE
from schemas.errors import RegistryError
from schemas.items import ITEMS
from schemas.partitions import Input, get
from schemas.publishing import draft, new_token, publish
from trainer import promotion
from trainer.explanation import explain

DS = date(2017, 10, 31)
EVENT_FILE = Input("raw_events", "2017-10-31", "events.csv", "digest-of-the-file")


@pytest.fixture
def version(registry, night_of):
    """A champion whose checkpoint was made of items, and those of an event file."""
    night = night_of([0.5] * 4)
    items, checkpoint = get(night.root, ITEMS, DS), get(night.root, CHECKPOINTS, DS)
    run = draft(night.root, ITEMS, DS, new_token())
    run.write(items.read())
    items = publish(run, DS, inputs=[EVENT_FILE])
    run = draft(night.root, CHECKPOINTS, DS, new_token())
    run.write(pa.Table.from_pylist(checkpoint.read().to_pylist(), schema=CHECKPOINTS.schema))
    (run.path / WEIGHTS_FILE).write_bytes(checkpoint.attachment(WEIGHTS_FILE).read_bytes())
    run.notes = {"provenance": {"commit": "abc", "lock_sha256": "def", "dag_run_id": "run-1"}}
    publish(run, DS, inputs=[items.as_input()], fingerprint="fingerprint")
    promotion.main(night)
    return registry.champion()


def test_op23_a_version_names_commit_lock_and_dag_run(registry, version):
    facts = explain(registry, version)
    assert (facts["commit"], facts["lock_sha256"], facts["dag_run_id"]) == ("abc", "def", "run-1")
    assert facts["settings"] == "unknown"


def test_op23_a_version_is_traced_back_to_the_event_files(registry, version):
    lineage = explain(registry, version)["lineage"]
    assert [row["table"] for row in lineage] == ["checkpoints", "items", "raw_events"]
    assert lineage[1]["digest"] == get(registry.root, ITEMS, DS).manifest.content_digest
    assert lineage[2]["digest"] == "digest-of-the-file"


def test_op23_a_version_carries_its_gate_record(registry, version):
    assert explain(registry, version)["gate"]["outcome"] == "promote"


def test_op23_a_checkpoint_that_is_gone_is_named(registry, version):
    checkpoint = get(registry.root, CHECKPOINTS, DS)
    (checkpoint.path / "manifest.json").unlink()
    with pytest.raises(RegistryError, match="no manifest of run"):
        explain(registry, version)
