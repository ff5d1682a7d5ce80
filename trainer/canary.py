"""Canary: a registered model is loaded as a server would load it, before it may serve.

The artifact is downloaded from the registry and loaded in one clean process, where only the
packages that its own requirements name, what those depend on, and the code inside it can be
imported: neither this project nor the rest of its environment. It recommends for some of the
night's users, alone and timed.
"""

import json
import math
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import mlflow
import numpy as np

from schemas.audit import file_sha256
from schemas.checkpoints import WEIGHTS_FILE
from schemas.command import Night
from schemas.errors import RegistryError
from schemas.items import ITEMS
from schemas.partitions import Partition, get
from schemas.sequences import SEQUENCES
from schemas.settings import GateSettings
from trainer import packages
from trainer.artifact import SIGNATURE
from trainer.gate import Decision
from trainer.registry import Registry
from trainer.rules import Rule
from trainer.versions import Version

PROGRAM = Path(__file__).with_name("canary_process.py")
ENDED_BY_HOST = (signal.SIGKILL, signal.SIGTERM, signal.SIGBUS)
"""Signals that say nothing about a model: no memory, or a full disk."""
NO_MEMORY = "bad_alloc"
"""The last word of a library that found none and aborts."""
KEPT_VARIABLES = ("PATH", "LD_LIBRARY_PATH", "LANG", "OMP_NUM_THREADS")

Row = dict[str, Any]
"""One row of the model's input or output, by column."""


@dataclass(frozen=True)
class Facts:
    """What a canary that passed has measured."""

    num_users: int
    load_seconds: float
    """Of the imports and the model."""
    median_ms: float
    """Of one prediction for one user."""
    p95_ms: float


def with_canary(
    decision: Decision, night: Night, registry: Registry, candidate: Version
) -> Decision:
    """The decision with one more rule, `canary`; a canary that fails makes it a hold.

    A candidate that is held already is not loaded.
    """
    settings = night.settings.gate
    if decision.verdict != "promote" or not settings.canary_users:
        return decision
    items, sequences = (get(night.root, contract, night.ds) for contract in (ITEMS, SEQUENCES))
    item_ids = items.read(["item_id"])["item_id"].to_pylist()
    rows = requests(sequences, item_ids, settings, night.settings.recommendations.k)
    try:
        facts = check(registry, candidate, rows, item_ids, settings)
    except RegistryError as error:
        rule = Rule("canary", f"failures of the canary ({error.found})", 1, "=", 0)
        rules, reason = [*decision.rules, rule], f"canary: {rule}"
        return replace(decision, outcome="hold", verdict="hold", reason=reason, rules=rules)
    about = (
        f"failures of the canary ({facts.num_users} users; loads in {facts.load_seconds:.1f} s; "
        f"predicts in {facts.median_ms:.1f} ms, p95 {facts.p95_ms:.1f} ms)"
    )
    return replace(decision, rules=[*decision.rules, Rule("canary", about, 0, "=", 0)])


def requests(
    sequences: Partition, item_ids: list[str], settings: GateSettings, k: int
) -> list[Row]:
    """Whole histories of seeded users as raw ids, with and without what was seen; one is empty."""
    histories = sequences.read(["item_indices"])["item_indices"]
    generator = np.random.default_rng(settings.seed)
    size = min(settings.canary_users, len(histories))
    users = np.sort(generator.choice(len(histories), size=size, replace=False))
    known = [[item_ids[i - 1] for i in history] for history in histories.take(users).to_pylist()]
    return [
        {"history": history, "k": k, "exclude_seen": number % 2 == 0}
        for number, history in enumerate([*known, []])
    ]


def check(
    registry: Registry,
    version: Version,
    rows: list[Row],
    item_ids: list[str],
    settings: GateSettings,
) -> Facts:
    """Loads a version in a clean process and has it answer.

    Args:
        registry: Where the version is registered.
        version: The version.
        rows: What it is asked, row by row; see `requests`.
        item_ids: The catalogue it was trained on.
        settings: `max_load_seconds` and `max_latency_ms` are limits.

    Raises:
        RegistryError: Naming the first check that failed.
    """
    _ = registry.client
    with TemporaryDirectory(prefix="canary-") as temporary:
        folder = Path(temporary).resolve()
        model, installed = folder / "model", folder / "packages"
        address = f"models:/{registry.name}/{version.number}"
        mlflow.artifacts.download_artifacts(artifact_uri=address, dst_path=str(model))
        found = file_sha256(model / "artifacts" / "model" / WEIGHTS_FILE)
        if found != version.weights_sha256:
            raise _failed(f"weights {found}", f"weights {version.weights_sha256}")
        packages.link((model / "requirements.txt").read_text().splitlines(), installed)
        answer = _answer(folder, rows, settings)
        refuse_strangers(answer, model)
    for asked, answered in zip(rows, answer["rows"], strict=True):
        if problem := wrong(asked, answered, set(item_ids)):
            raise _failed(f"an answer with {problem}", "a ranked list of the catalogue")
    return within_limits(answer, settings)


def wrong(asked: Row, answered: Row, item_ids: set[str]) -> str | None:
    """What is wrong with one answer, in words; None where nothing is.

    Args:
        asked: `history`, `k` and `exclude_seen`.
        answered: `item_id`, `score` and `is_fallback`.
        item_ids: The catalogue.
    """
    found, scores, seen = answered["item_id"], answered["score"], set(asked["history"]) & item_ids
    allowed = item_ids - seen if asked["exclude_seen"] else item_ids
    expected = min(asked["k"], len(allowed))
    if len(found) != expected or len(scores) != expected:
        return f"{len(found)} items with {len(scores)} scores where {expected} are due"
    if len(set(found)) != len(found):
        return "an item twice"
    if strange := set(found) - item_ids:
        return f"the unknown item {min(strange)}"
    if set(found) - allowed:
        return f"the seen item {min(set(found) - allowed)}"
    if not all(score is not None and math.isfinite(score) for score in scores):
        return "a score that is not finite"
    if scores != sorted(scores, reverse=True):
        return "scores that rise"
    if answered["is_fallback"] != (not seen):
        return f"is_fallback {answered['is_fallback']} for {len(seen)} known items".lower()
    return None


def _answer(folder: Path, rows: list[Row], settings: GateSettings) -> dict[str, Any]:
    """What the clean process says. Bounded in time: twice what the limits allow."""
    seconds = 2 * (settings.max_load_seconds + len(rows) * settings.max_latency_ms / 1000)
    request: Row = {"model": str(folder / "model"), "packages": str(folder / "packages")}
    request |= {"rows": rows, "timeout_seconds": math.ceil(seconds)}
    (folder / "request.json").write_text(json.dumps(request))
    variables = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
    variables |= {"HOME": str(folder), "TMPDIR": str(folder), "MLFLOW_DISABLE_TELEMETRY": "true"}
    command = [sys.executable, "-I", "-S", "-B", str(PROGRAM), "request.json", "answer.json"]
    ended = subprocess.run(
        command, cwd=folder, env=variables, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    if ended.returncode == -signal.SIGALRM:
        raise _failed(f"no answer in {seconds:.0f} s", "one within the limits of [gate]")
    last = (ended.stderr.strip().splitlines() or [f"exit code {ended.returncode}"])[-1]
    # No word about the model: as errors of no kind of ours, these are tried again.
    if ended.returncode == os.EX_TEMPFAIL:
        raise RuntimeError(f"the canary's process lacked memory, disk or files: {last}")
    found_none = ended.returncode == -signal.SIGABRT and NO_MEMORY in ended.stderr
    if -ended.returncode in ENDED_BY_HOST or found_none:
        raise RuntimeError(f"the canary's process was ended by signal {-ended.returncode}")
    if ended.returncode:
        raise _failed(f"a clean process that ends with {last}", "a model that loads and predicts")
    return dict(json.loads((folder / "answer.json").read_text()))


def refuse_strangers(answer: dict[str, Any], model: Path) -> None:
    """Refuses another signature, and modules that are neither the artifact's nor required.

    Args:
        answer: Of the clean process.
        model: The artifact's folder.
    """
    if answer["signature"] != SIGNATURE.to_dict():
        raise _failed(f"signature {answer['signature']}", f"signature {SIGNATURE.to_dict()}")
    strangers = answer["foreign"] | {
        file: file for file in answer["own"] if not Path(file).is_relative_to(model)
    }
    if strangers:
        name, file = min(strangers.items())
        raise _failed(f"module {name} from {file}", "modules of the artifact and its requirements")


def within_limits(answer: dict[str, Any], settings: GateSettings) -> Facts:
    """What was measured, unless it is beyond a limit of the settings."""
    median, p95 = (float(np.quantile(answer["milliseconds"], q)) for q in (0.5, 0.95))
    facts = Facts(len(answer["rows"]) - 1, answer["load_seconds"], median, p95)
    if facts.load_seconds > settings.max_load_seconds:
        raise _failed(
            f"a load of {facts.load_seconds:.3f} s",
            f"gate.max_load_seconds, {settings.max_load_seconds}",
        )
    if facts.p95_ms > settings.max_latency_ms:
        raise _failed(
            f"a p95 latency of {facts.p95_ms:.3f} ms",
            f"gate.max_latency_ms, {settings.max_latency_ms}",
        )
    return facts


def _failed(found: str, expected: str) -> RegistryError:
    return RegistryError(found, expected, "re-train the night, or mend what the canary found")
