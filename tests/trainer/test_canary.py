import signal
from dataclasses import replace
from pathlib import Path

import pytest

from schemas.errors import RegistryError
from schemas.settings import Settings
from trainer import canary, promotion
from trainer.artifact import SIGNATURE
from trainer.ledger import decisions

ITEM_IDS = [f"item-{n}" for n in range(12)]
GATE = Settings().gate.model_copy(update={"canary_users": 3})


@pytest.fixture
def items(publish_items):
    return publish_items(ITEM_IDS)


@pytest.fixture
def version(registry, items, publish_model):
    return registry.register(publish_model(items), items)


@pytest.fixture
def sequences(publish_sequences):
    return publish_sequences([([1, 2], []), ([3], [4]), ([5, 6, 5], []), ([12], [])])


@pytest.fixture
def rows(sequences):
    return canary.requests(sequences, ITEM_IDS, GATE, k=10)


def artifact(registry, version) -> Path:
    """The folder of a version in the store, as a broken disk or a stranger would meet it."""
    return registry.download(version).parent.parent


def test_op12_a_registered_version_recommends_in_a_clean_process(registry, version, rows):
    facts = canary.check(registry, version, rows, ITEM_IDS, GATE)
    assert facts.num_users == 3
    assert 0 < facts.median_ms <= facts.p95_ms
    assert facts.load_seconds > 0.1


def test_op12_the_project_cannot_be_imported_where_the_artifact_lacks_its_code(
    registry, version, rows
):
    (artifact(registry, version) / "code" / "trainer" / "scorer.py").unlink()
    with pytest.raises(
        RegistryError, match=r"No module named 'trainer\.scorer'|cannot import name"
    ):
        canary.check(registry, version, rows, ITEM_IDS, GATE)


def test_op12_a_package_that_no_requirement_names_cannot_be_imported(registry, version, rows):
    names = artifact(registry, version) / "requirements.txt"
    kept = [line for line in names.read_text().splitlines() if "safetensors" not in line]
    names.write_text("\n".join(kept))
    with pytest.raises(RegistryError, match="No module named 'safetensors'"):
        canary.check(registry, version, rows, ITEM_IDS, GATE)


def test_op12_a_module_from_elsewhere_is_named(registry, version, rows, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "stranger.py").touch()
    code = artifact(registry, version) / "code" / "trainer" / "scorer.py"
    lines = f"import sys\nsys.path.append({str(tmp_path / 'elsewhere')!r})\nimport stranger\n"
    code.write_text(code.read_text().replace("import torch\n", "import torch\n" + lines))
    with pytest.raises(RegistryError, match="module stranger from"):
        canary.check(registry, version, rows, ITEM_IDS, GATE)


def test_op12_other_weights_are_named_before_anything_runs(registry, version, rows):
    with pytest.raises(RegistryError, match="expected weights 0000"):
        canary.check(registry, replace(version, weights_sha256="0000"), rows, ITEM_IDS, GATE)


def test_op12_another_signature_is_named(tmp_path):
    answer = {"signature": SIGNATURE.to_dict() | {"inputs": "[]"}, "foreign": {}, "own": []}
    with pytest.raises(RegistryError, match="found signature"):
        canary.refuse_strangers(answer, tmp_path)


def test_op12_code_of_the_project_in_the_place_of_the_artifacts_is_named(tmp_path):
    answer = {"signature": SIGNATURE.to_dict(), "foreign": {}, "own": [canary.__file__]}
    with pytest.raises(RegistryError, match="modules of the artifact and its requirements"):
        canary.refuse_strangers(answer, tmp_path)


SEEN = {"history": ["a", "b"], "k": 2, "exclude_seen": True}
RIGHT = {"item_id": ["c", "d"], "score": [2.0, 1.0], "is_fallback": False}


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({}, None),
        ({"item_id": ["c"]}, "1 items with 2 scores where 2 are due"),
        ({"item_id": ["c", "c"]}, "an item twice"),
        ({"item_id": ["c", "z"]}, "the unknown item z"),
        ({"item_id": ["c", "a"]}, "the seen item a"),
        ({"score": [2.0, float("nan")]}, "a score that is not finite"),
        ({"score": [1.0, 2.0]}, "scores that rise"),
        ({"is_fallback": True}, "is_fallback true for 2 known items"),
    ],
)
def test_op12_a_wrong_answer_is_told_apart(changed, problem):
    assert canary.wrong(SEEN, RIGHT | changed, {"a", "b", "c", "d"}) == problem


def test_op12_an_empty_history_must_be_answered_by_the_fallback():
    asked = SEEN | {"history": []}
    assert canary.wrong(asked, RIGHT, {"c", "d"}) == "is_fallback false for 0 known items"


def test_op12_a_catalogue_smaller_than_k_is_answered_whole():
    asked = SEEN | {"k": 10}
    assert canary.wrong(asked, RIGHT, {"a", "b", "c", "d"}) is None


def test_op12_the_users_are_real_whole_seeded_and_one_is_empty(sequences, rows):
    histories = [["item-0", "item-1"], ["item-2", "item-3"], ["item-4", "item-5", "item-4"]]
    assert [row["history"] for row in rows[:-1]] == sorted(row["history"] for row in rows[:-1])
    assert all(row["history"] in [*histories, ["item-11"]] for row in rows[:-1])
    assert rows[-1]["history"] == []
    assert rows == canary.requests(sequences, ITEM_IDS, GATE, k=10)


@pytest.mark.parametrize("limit", ["max_load_seconds", "max_latency_ms"])
def test_op12_a_limit_that_is_passed_is_named(limit):
    answer = {"rows": [None, None], "load_seconds": 2.0, "milliseconds": [5.0, 7.0]}
    with pytest.raises(RegistryError, match=f"gate.{limit}, 1"):
        canary.within_limits(answer, GATE.model_copy(update={limit: 1.0}))


def test_op12_a_process_that_does_not_end_is_stopped(registry, version, rows):
    code = artifact(registry, version) / "code" / "trainer" / "scorer.py"
    code.write_text("while True:\n    pass\n")
    short = GATE.model_copy(update={"max_load_seconds": 0.5, "max_latency_ms": 1.0})
    with pytest.raises(RegistryError, match="no answer in 1 s"):
        canary.check(registry, version, rows, ITEM_IDS, short)


@pytest.mark.parametrize(
    ("number", "words", "error"),
    [
        (signal.SIGKILL, "", RuntimeError),
        (signal.SIGBUS, "", RuntimeError),
        (signal.SIGABRT, "what():  std::bad_alloc", RuntimeError),
        (signal.SIGABRT, "Assertion failed", RegistryError),
    ],
)
def test_op17_a_process_that_the_host_kills_says_nothing_about_the_model(
    registry, version, rows, monkeypatch, tmp_path, number, words, error
):
    killed = tmp_path / "killed.py"
    program = f"import os, sys; sys.stderr.write({words!r}); sys.stderr.flush()"
    killed.write_text(f"{program}; os.kill(os.getpid(), {int(number)})")
    monkeypatch.setattr(canary, "PROGRAM", killed)
    with pytest.raises(error, match=f"ended by signal {int(number)}|ends with {words}"):
        canary.check(registry, version, rows, ITEM_IDS, GATE)


@pytest.mark.parametrize(
    "fails",
    [
        "raise MemoryError",
        "import errno; raise OSError(errno.ENOSPC, 'No space left')",
        "raise RuntimeError('DefaultCPUAllocator: can\\'t allocate memory: you tried')",
    ],
)
def test_op17_a_canary_that_finds_too_little_of_the_machine_is_tried_again(
    registry, version, rows, monkeypatch, tmp_path, fails
):
    program = tmp_path / "canary.py"
    code = canary.PROGRAM.read_text()
    program.write_text(code.replace("    import mlflow\n", f"    {fails}\n"))
    assert program.read_text() != code
    monkeypatch.setattr(canary, "PROGRAM", program)
    with pytest.raises(
        RuntimeError, match=r"lacked memory, disk or files: (MemoryError|OSError\(28|RuntimeError)"
    ):
        canary.check(registry, version, rows, ITEM_IDS, GATE)


def gated(night, **changed):
    """The night with a canary and other gate settings."""
    gate = night.settings.gate.model_copy(update={"canary_users": 2} | changed)
    night.settings = night.settings.model_copy(update={"gate": gate})
    return night


def test_op12_a_promotion_names_what_its_canary_measured(registry, night_of, monkeypatch):
    monkeypatch.setattr(canary, "check", lambda *_: canary.Facts(2, 1.5, 3.25, 7.0))
    night = gated(night_of([0.5] * 4))
    promotion.main(night)
    (row,) = decisions(night.root, night.ds)
    assert row["outcome"] == "promote"
    assert '"rule": "canary", "result": "passed", "value": 0, "limit": 0' in row["rules"]
    assert "2 users; loads in 1.5" in row["rules"]


def test_op12_a_candidate_whose_canary_fails_is_held(registry, night_of):
    night = gated(night_of([0.5] * 4), max_load_seconds=0.1, max_latency_ms=1.0)
    promotion.main(night)
    (row,) = decisions(night.root, night.ds)
    assert row["outcome"] == "hold"
    assert row["reason"].startswith("canary: failures of the canary (no answer in")
    assert registry.champion() is None
