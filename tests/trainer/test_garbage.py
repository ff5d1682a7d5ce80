import os
import time
from datetime import date, timedelta
from pathlib import Path

import pytest

from schemas.checkpoints import CHECKPOINTS
from schemas.errors import CorruptPartitionError, RegistryError, UsageError
from schemas.items import ITEMS
from schemas.partitions import find, get
from schemas.sequences import SEQUENCES
from schemas.settings import Settings
from trainer import garbage, operations, promotion
from trainer.explanation import explain, lineage
from trainer.garbage import collect
from trainer.ledger import decisions, opponent
from trainer.warm_start import champion_input

DS = date(2017, 10, 31)
WEEK = timedelta(days=7)


@pytest.fixture
def three_nights(decided):
    """Version 3 serves, 2 did before it, 1 has no alias."""
    return decided(3)


@pytest.fixture
def items_of(publish_items):
    return lambda: publish_items([f"item-{n}" for n in range(12)])


def make_old(root):
    """As if nothing had changed under the root for eight days."""
    then = time.time() - 8 * 86400
    for path in root.rglob("*"):
        os.utime(path, (then, then))


def names(registry, keep=10, dry_run=False):
    found = collect(registry, older_than=WEEK, keep_versions=keep, dry_run=dry_run)
    return [one.name for one in found]


def run_name(partition):
    m = partition.manifest
    return f"tables/{m.table}/v1/ds={m.ds}/run={m.run}"


def test_op25_runs_that_no_pointer_names_go_once_they_are_old(three_nights, items_of):
    first, second, newest = get(three_nights.root, ITEMS, DS), items_of(), items_of()
    assert names(three_nights) == []
    make_old(three_nights.root)
    assert names(three_nights) == [run_name(first), run_name(second)]
    assert names(three_nights) == []
    assert find(three_nights.root, ITEMS, DS) == newest


def test_op25_an_old_run_that_was_replaced_only_now_may_still_be_read(three_nights, items_of):
    first = get(three_nights.root, ITEMS, DS)
    make_old(three_nights.root)
    items_of()
    assert names(three_nights) == []
    assert first.read() is not None


def test_op25_a_run_whose_pointer_is_damaged_is_no_garbage(three_nights, items_of):
    newest = items_of()
    (newest.path.parent / "CURRENT").write_text("")
    make_old(three_nights.root)
    with pytest.raises(CorruptPartitionError, match="CURRENT damaged"):
        names(three_nights)
    assert newest.path.is_dir()


def test_op25_what_serving_versions_were_made_of_stays(three_nights, publish_model):
    nights = [DS + timedelta(days=n) for n in range(3)]
    runs = [get(three_nights.root, CHECKPOINTS, ds) for ds in nights]
    for ds in nights:
        publish_model(get(three_nights.root, ITEMS, ds), seed=99)
    make_old(three_nights.root)
    assert names(three_nights) == [run_name(runs[0])]
    assert lineage(three_nights, three_nights.champion()) == [runs[2].as_input()]


def test_op25_old_artifacts_go_and_their_versions_stay(three_nights):
    assert names(three_nights, keep=2) == ["artifact of version 1"]
    assert names(three_nights, keep=1) == []
    assert three_nights.get(1).number == 1
    for alias in ("champion", "previous"):
        three_nights.download(three_nights.aliased(alias))
    with pytest.raises(RegistryError, match="version 1 of penumbra with no artifact"):
        three_nights.download(three_nights.get(1))


def test_a_collected_version_is_registered_again_by_repeating_its_night(three_nights, make_night):
    root, second = three_nights.root, DS + timedelta(days=1)
    (decided,) = decisions(root, second)
    assert names(three_nights, keep=2) == ["artifact of version 1"]
    first = opponent(three_nights, second, decided["candidate_digest"], DS)
    with pytest.raises(RegistryError, match=f"or re-run the night of {DS}"):
        three_nights.download(first)
    ledger = decisions(root, DS)
    promotion.main(make_night(ds=DS))
    assert decisions(root, DS) == ledger
    again = opponent(three_nights, second, decided["candidate_digest"], DS)
    assert (again.number, again.weights_sha256) == (4, first.weights_sha256)
    assert three_nights.download(again).is_dir()
    assert three_nights.champion().number == 3
    warm = Settings.model_validate({"training": {"warm_start": True}})
    assert [line.run for line in champion_input(root, second, warm)] == ["4"]
    with pytest.raises(UsageError, match="rollback --to 4, if an older model"):
        operations.promote(three_nights, 1, "no other")
    assert operations.rollback(three_nights, 1, "worse").serves.number == 4


def test_op25_a_dry_run_deletes_nothing_and_counts_the_same_bytes(three_nights, items_of):
    old = get(three_nights.root, ITEMS, DS)
    items_of()
    make_old(three_nights.root)
    limits = {"older_than": WEEK, "keep_versions": 1}
    would = collect(three_nights, **limits, dry_run=True)
    assert old.path.exists()
    assert [g.name for g in would] == [run_name(old), "artifact of version 1"]
    assert would[0].bytes == sum(file.stat().st_size for file in old.files)
    assert collect(three_nights, **limits, dry_run=False) == would


def test_op25_large_tables_of_nights_long_ago_go_where_asked_for_and_are_made_anew(
    three_nights, publish_sequences
):
    root = three_nights.root
    nights = [DS + timedelta(days=n) for n in range(3)]
    first, second, third = (publish_sequences([([1, 2], [3])], ds) for ds in nights)
    limits = {"older_than": WEEK, "keep_versions": 10}
    assert collect(three_nights, **limits, keep_days=2, dry_run=False) == []  # not old enough
    for _ in range(2):  # what the fixtures published before goes first
        make_old(root)
        collect(three_nights, **limits, dry_run=False)
    make_old(root)
    assert collect(three_nights, **limits, dry_run=False) == []
    (found,) = collect(three_nights, **limits, keep_days=2, dry_run=True)
    assert found.name == run_name(first) and first.files[0].exists()
    assert collect(three_nights, **limits, keep_days=2, dry_run=False) == [found]
    assert collect(three_nights, **limits, keep_days=2, dry_run=False) == []
    with pytest.raises(CorruptPartitionError, match="sequences"):
        get(root, SEQUENCES, DS)
    assert [get(root, SEQUENCES, ds) for ds in nights[1:]] == [second, third]
    publish_sequences([([1, 2], [3])], DS)
    assert get(root, SEQUENCES, DS).manifest.content_digest == first.manifest.content_digest


def test_op25_large_tables_of_old_nights_that_a_serving_version_names_stay(
    three_nights, publish_sequences, monkeypatch
):
    old = publish_sequences([([1, 2], [3])], DS)
    publish_sequences([([1, 2], [3])], DS + timedelta(days=9))
    make_old(three_nights.root)
    limits = {"older_than": WEEK, "keep_versions": 10, "keep_days": 1, "dry_run": True}
    assert run_name(old) in [one.name for one in collect(three_nights, **limits)]
    monkeypatch.setattr(garbage, "lineage", lambda registry, version: [old.as_input()])
    assert run_name(old) not in [one.name for one in collect(three_nights, **limits)]


def test_op25_leftovers_of_killed_processes_go_once_they_are_old(three_nights):
    root = three_nights.root
    state = root / "resume" / "training" / "ds=2017-10-31" / "abc" / "state.pt"
    state.parent.mkdir(parents=True)
    pointer = get(root, ITEMS, DS).path.parent / ".CURRENT.0001-7"
    draft = pointer.parent / "run=0001-7"
    draft.mkdir()
    staged = root / "tables" / "interactions" / "v1" / "_staging-0001-7" / "day=2017-10-31" / "a"
    staged.parent.mkdir(parents=True)
    for file in (state, pointer, draft / "part-00000.parquet", staged):
        file.write_text("half")
    assert names(three_nights) == []
    make_old(root)
    folder = pointer.parent.relative_to(root)
    staging = "tables/interactions/v1/_staging-0001-7"
    resume = "resume/training/ds=2017-10-31/abc"
    found = [staging, f"{folder}/run=0001-7", f"{folder}/.CURRENT.0001-7", resume]
    assert names(three_nights) == found
    assert not any(path.exists() for path in (state, pointer, draft, root / staging))


def test_op23_a_version_is_explained_after_its_checkpoint_was_collected(
    three_nights, publish_model
):
    before = explain(three_nights, three_nights.get(1))
    old = get(three_nights.root, CHECKPOINTS, DS)
    publish_model(get(three_nights.root, ITEMS, DS), seed=99)
    make_old(three_nights.root)
    assert names(three_nights) == [run_name(old)]
    assert [file.name for file in old.path.iterdir()] == ["manifest.json"]
    assert explain(three_nights, three_nights.get(1)) == before


def test_op25_files_that_vanish_meanwhile_are_of_a_stage_at_work(three_nights, monkeypatch):
    draft = get(three_nights.root, ITEMS, DS).path.parent / "run=0001-7"
    draft.mkdir()
    make_old(three_nights.root)
    everything = Path.rglob

    def rglob(path, pattern):
        return [*everything(path, pattern), *([path / "gone"] if path == draft else [])]

    monkeypatch.setattr(Path, "rglob", rglob)
    assert names(three_nights) == []
    monkeypatch.undo()
    assert names(three_nights) == [str(draft.relative_to(three_nights.root))]


def test_op25_a_version_whose_lineage_is_lost_stops_everything(three_nights, items_of):
    items_of()
    make_old(three_nights.root)
    checkpoint = get(three_nights.root, CHECKPOINTS, DS + timedelta(days=1))
    (checkpoint.path / "manifest.json").unlink()
    with pytest.raises(RegistryError, match="no manifest of run"):
        names(three_nights)
