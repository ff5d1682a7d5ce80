"""Training epoch: one of SASRec on MovieLens-1M, by our trainer and by RecTools'.

    python -m benchmarks.training_epoch var/bench/movielens-201.npz

As a program it trains ours for an epoch and prints seconds, mean loss and examples. Both sides
are programs, see the same last actions of the same people, and predict every next item with a
softmax over all items, at equal width, blocks, heads, length, batch size, dropout and threads.
RecTools' blocks are lighter: its feed-forward layer is as wide as the hidden state, ours twice. It
pads every window to the full length, where ours are sorted by length.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.movielens import fetch
from schemas.settings import TrainingSettings
from trainer.actions import Actions
from trainer.backbones import build
from trainer.batches import TrainingWindows
from trainer.checkpointing import ResumeState
from trainer.fitting import Fitting, prepare_torch
from trainer.histories import Histories
from trainer.soft_targets import no_soft_targets

PROJECT = Path(__file__).parent.parent
RIVAL = Path(__file__).parent / "training_rectools.py"
RECTOOLS = "0.19.0"
REQUIREMENTS = (f"rectools[torch]=={RECTOOLS}", f"torch=={version('torch').split('+')[0]}")
"""Of the rival's own environment: it asks for other versions than we do."""

SETTINGS = TrainingSettings(
    backbone="sasrec",
    width=128,
    num_blocks=2,
    num_heads=2,
    dropout=0.2,
    max_length=200,
    history_skip=False,
    loss="cross_entropy",
    targets="all",
    batch_size=128,
    epochs=1,
)


def our_epoch(file: Path, settings: TrainingSettings) -> dict[str, float]:
    """Trains as the nightly stage does, saving its state included.

    Args:
        file: As `movielens.fetch` makes it.
        settings: With one epoch.

    Returns:
        `seconds` of the epoch, making batches included; mean `loss`; number of `examples`.
    """
    prepare_torch(settings)
    stored = np.load(file)
    items, offsets = stored["items"], stored["offsets"]
    actions = Actions(Histories(items, offsets[:-1], offsets[1:]), np.arange(len(items)))
    num_items = int(items.max())
    windows = TrainingWindows([actions], no_soft_targets(num_items), settings)
    epochs: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        Fitting(
            backbone=build(settings, num_items),
            windows=windows,
            settings=settings,
            resume=ResumeState(Path(folder) / "state.pt"),
            validate=None,
            on_epoch=lambda epoch, metrics: epochs.append(metrics),
        ).run()
    (metrics,) = epochs
    examples = len(items) - len(offsets) + 1
    return {"seconds": metrics["seconds"], "loss": metrics["train_loss"], "examples": examples}


def epochs_in_turn(root: Path, repetitions: int) -> dict[str, list[dict[str, float]]]:
    """Results of our programs and the rival's, run in turn.

    Raises:
        CalledProcessError: The rival cannot be installed, or a program failed.
        ValueError: They did not train on as many examples.
    """
    data = fetch(root, SETTINGS.max_length + 1)
    python = environment(root / "rectools")
    ours = [sys.executable, "-m", "benchmarks.training_epoch", str(data)]
    # By its path, and isolated: the rival's environment has none of our packages.
    theirs = [str(python), "-I", str(RIVAL), str(data), SETTINGS.model_dump_json()]
    found: dict[str, list[dict[str, float]]] = {"ours": [], "rectools": []}
    for _ in range(repetitions):
        for name, command in (("ours", ours), ("rectools", theirs)):
            found[name].append(result_of(command))
            print(f"movielens: {name}: {found[name][-1]}", file=sys.stderr, flush=True)
    if len({run["examples"] for runs in found.values() for run in runs}) > 1:
        raise ValueError(f"found {found}; expected the same number of examples everywhere")
    return found


def environment(folder: Path) -> Path:
    """The interpreter of an environment with the rival in it, made once."""
    python, stamp = folder / "bin" / "python", folder / ".installed"
    wanted = "\n".join(REQUIREMENTS)
    if not (stamp.exists() and stamp.read_text() == wanted):
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        install = [str(python), "-m", "pip", "install", "--quiet", *REQUIREMENTS]
        subprocess.run(install, check=True)
        stamp.write_text(wanted)
    return python


def result_of(command: Sequence[str]) -> dict[str, Any]:
    """What a program printed as JSON in its last line."""
    run = subprocess.run(command, cwd=PROJECT, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    return found


def main(arguments: Sequence[str]) -> None:
    """Trains ours for an epoch and prints what it took as JSON."""
    parser = argparse.ArgumentParser("python -m benchmarks.training_epoch", description=__doc__)
    parser.add_argument("data", type=Path, help="as benchmarks/movielens.py makes it")
    options = parser.parse_args(arguments)
    print(json.dumps(our_epoch(options.data, SETTINGS)))


if __name__ == "__main__":
    main(sys.argv[1:])
