"""Checkpointing: trained models read back, and the state an interrupted run resumes from.

A run's resume state lies under `<root>/resume/training/ds=…/<fingerprint>/` until its
checkpoint is published. It is replaced atomically and read without executing anything in it.
"""

import os
import shutil
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from schemas.checkpoints import WEIGHTS_FILE
from schemas.errors import DataError, may_pass
from schemas.partitions import Partition
from schemas.settings import TrainingSettings
from trainer.backbones import Backbone, build
from trainer.ranks import Ranks

SECONDS_OF_A_LEFTOVER = 300.0
"""Since anybody wrote to it."""

Weights = dict[str, Tensor]
ONE_RANK = Ranks()
NO_MEMORY = "can't allocate memory"
"""What torch says where the machine has too little left; on GPUs it has an error of its own."""


def load(partition: Partition) -> tuple[Backbone, TrainingSettings]:
    """The trained model of a published night, ready to score (evaluation mode).

    Args:
        partition: A partition of the checkpoints table, as `schemas.partitions.get` returns it.

    Returns:
        The backbone with its weights, and the training settings it was made with.
    """
    (row,) = partition.read().to_pylist()
    settings = TrainingSettings.model_validate_json(row["settings"])
    return restore(settings, row["num_items"], partition.attachment(WEIGHTS_FILE)), settings


def restore(settings: TrainingSettings, num_items: int, weights: Path) -> Backbone:
    """A backbone in evaluation mode with the weights of a safetensors file.

    Args:
        settings: The training section it was trained with.
        num_items: V, the catalogue it was trained on, without padding.
        weights: Path of the safetensors file; nothing in it is executed.
    """
    backbone = build(settings, num_items)
    backbone.load_state_dict(load_file(weights))
    return backbone.eval()


def copy_weights(backbone: Backbone) -> Weights:
    """The weights of now, which further training does not change."""
    weights = backbone.state_dict().items()
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in weights}


def _generator(backbone: Backbone) -> torch.Generator:
    """The one that dropout and draws take from on the backbone's device."""
    device = backbone.item_bias.device
    if device.type == "cpu":
        return torch.default_generator
    return torch.cuda.default_generators[device.index]


@dataclass
class Progress:
    """Where a run stands: with weights, optimiser and generator, all that resuming needs."""

    epoch: int = 1
    """The epoch under way, from 1."""
    batch: int = 0
    """Batches of it that are done."""
    sums: dict[str, float] = field(default_factory=dict)
    """Sums over those batches, for the epoch's means."""
    epochs: list[dict[str, float]] = field(default_factory=list)
    """Metrics of every finished epoch."""
    best_epoch: int = 0
    """The epoch whose weights are kept so far; 0 before the first has finished."""
    best_weights: Weights = field(default_factory=dict)
    first_loss: float = 0.0
    """Of the run's first step; later ones must stay in proportion to it."""


@dataclass(frozen=True)
class ResumeState:
    """The file an interrupted run continues from, bit for bit."""

    path: Path

    @classmethod
    def of(cls, root: Path, ds: str, fingerprint: str) -> "ResumeState":
        """The state of one date's run with these inputs, settings and code."""
        return cls(root / "resume" / "training" / f"ds={ds}" / fingerprint / "state.pt")

    def save(
        self,
        progress: Progress,
        backbone: Backbone,
        optimiser: torch.optim.Optimizer,
        ranks: Ranks = ONE_RANK,
    ) -> None:
        """Replaces the state atomically: a kill leaves this one or the one before.

        All ranks call it; the first writes, with every rank's generator.
        """
        generators = ranks.gather(_generator(backbone).get_state())
        if not ranks.is_first:
            return
        state = {
            "progress": dict(vars(progress)),
            "weights": backbone.state_dict(),
            "optimiser": optimiser.state_dict(),
            "generators": generators,
            "num_threads": torch.get_num_threads(),
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._remove_leftovers()
        unfinished = self.path.with_suffix(f".{os.getpid()}")
        try:
            with unfinished.open("wb") as file:
                torch.save(state, file)
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(self.path)
        finally:
            unfinished.unlink(missing_ok=True)  # a full disk stays as full as it was

    def restore(
        self, backbone: Backbone, optimiser: torch.optim.Optimizer, ranks: Ranks = ONE_RANK
    ) -> Progress:
        """Puts weights, optimiser and torch's generator back; a new `Progress` without a state.

        A run that had another number of ranks goes on, with the generators and threads it starts
        with; else it takes as many threads as before, since the last bits of sums depend on them.

        Raises:
            DataError: The file is there and cannot be used; says what to do.
        """
        if not self.path.exists():
            return Progress()
        try:
            # From the path: the file's bytes in memory would double what resuming needs.
            state: dict[str, Any] = torch.load(self.path, map_location="cpu", weights_only=True)
            backbone.load_state_dict(state["weights"])
            optimiser.load_state_dict(state["optimiser"])
            if len(state["generators"]) == ranks.size:
                _generator(backbone).set_state(state["generators"][ranks.rank])
                torch.set_num_threads(state["num_threads"])
            return Progress(**state["progress"])
        except (UnpicklingError, RuntimeError, EOFError, OSError, LookupError, ValueError) as error:
            lacks_memory = isinstance(error, torch.OutOfMemoryError) or NO_MEMORY in str(error)
            if lacks_memory or may_pass(error):
                raise
            raise DataError(
                f"{self.path}, which is not a resume state ({type(error).__name__})",
                "what an interrupted run of the same inputs, settings and code left there",
                "delete the file; training then starts from its first epoch",
            ) from error

    def _remove_leftovers(self) -> None:
        """Deletes what a killed save left, and nothing that is being written."""
        for left in self.path.parent.glob(f"{self.path.stem}.[0-9]*"):
            with suppress(FileNotFoundError):
                if time.time() - left.stat().st_mtime > SECONDS_OF_A_LEFTOVER:
                    left.unlink()

    def remove(self) -> None:
        """Forgets the run, when its checkpoint is published."""
        shutil.rmtree(self.path.parent, ignore_errors=True)
