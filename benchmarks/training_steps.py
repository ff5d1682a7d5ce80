"""Training steps: whole optimiser steps on generated batches, ours beside rivals'.

    python -m benchmarks.training_steps decoupled --shape paper --steps 3

As a program it makes steps of one loss and prints their seconds, their losses and the memory they
took: peak resident memory of this process while it made them, and how much of it is above what
was resident just before the first (gradients and optimiser included, imports and weights not).

    B histories of L positions, N of them counted, D width, V items, K soft-target entries
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.training_rivals import dense_decoupled, plain_cross_entropy
from schemas.settings import TrainingSettings
from trainer.backbones import build
from trainer.batches import Batch
from trainer.examples import Examples, Output
from trainer.fitting import prepare_torch
from trainer.losses import LOSSES

Loss = Callable[[Tensor, Output, Examples, TrainingSettings], Tensor]

RIVALS: dict[str, Loss] = {"dense": dense_decoupled, "plain": plain_cross_entropy}
"""Losses that stand beside those of `trainer.losses`."""

WARM_UP = 2
"""Steps that are not counted: they make gradients and the optimiser's state."""


@dataclass(frozen=True)
class Shape:
    """What one step trains on: of every full history of L items the last `counted` are examples."""

    num_items: int
    batch_size: int
    length: int
    counted: int
    num_entries: int = 100
    width: int = 128

    @property
    def settings(self) -> TrainingSettings:
        """A SASRec of this width; all else as by default."""
        return TrainingSettings(
            backbone="sasrec", width=self.width, max_length=self.length, batch_size=self.batch_size
        )

    def scaled(self, scale: float) -> "Shape":
        """The same with a smaller or larger catalogue."""
        return replace(self, num_items=max(2 * self.num_entries, round(self.num_items * scale)))

    def __str__(self) -> str:
        return f"|V| {self.num_items:,}, {self.batch_size} × {self.length}, {self.counted} counted"


SHAPES = {
    # As in the paper: histories of at most 20, one target each, 256 of them (Diginetica).
    "paper": Shape(43_000, 256, 20, counted=1),
    # As Penumbra trains: all positions of a batch at once.
    "all_positions": Shape(43_000, 128, 50, counted=50),
    "million": Shape(1_000_000, 128, 50, counted=50),
}


def batch(shape: Shape, seed: int) -> Batch:
    """Random histories and targets; soft targets of K other items each, 0.4 on the target."""
    random = torch.Generator().manual_seed(seed)
    V, B, L, K = shape.num_items, shape.batch_size, shape.length, shape.num_entries
    items_BL = torch.randint(1, V + 1, (B, L), generator=random)
    positions_N = torch.arange(B * L).view(B, L)[:, L - shape.counted :].flatten()
    targets_N = torch.randint(1, V + 1, positions_N.shape, generator=random)
    # Rising distances below V from the target: no item twice, never the target itself.
    distances_NK = torch.randint(1, V // K, (len(targets_N), K), generator=random).cumsum(1)
    others_NK = ((targets_N[:, None] - 1 + distances_NK) % V + 1).sort(1).values
    masses_NK = torch.rand(others_NK.shape, generator=random)
    masses_NK *= 0.6 / masses_NK.sum(1, keepdim=True)
    own_N = torch.full(targets_N.shape, 0.4)
    return Batch(items_BL, positions_N, Examples(targets_N, own_N, others_NK, masses_NK))


class Contender:
    """A model in training under one loss, ours or a rival's; all start from the same weights.

    Ours are deterministic, as the trainer is; rivals are not asked to be.
    """

    def __init__(self, name: str, shape: Shape) -> None:
        self.name, self.is_ours = name, name not in RIVALS
        self.settings = shape.settings
        self.backbone = build(self.settings, shape.num_items).train()
        self.optimiser = torch.optim.AdamW(
            self.backbone.parameters(), lr=self.settings.learning_rate, fused=True
        )

    def step(self, batch: Batch) -> float:
        """One optimiser step as `trainer.fitting` makes it; returns the loss."""
        torch.use_deterministic_algorithms(self.is_ours)
        self.optimiser.zero_grad()
        loss = self.loss(batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.backbone.parameters(), self.settings.clip_norm)
        self.optimiser.step()
        return loss.item()

    def loss(self, batch: Batch) -> Tensor:
        """The mean over the batch's examples."""
        hidden_ND = self.backbone(batch.items_BL).flatten(0, 1)[batch.positions_N]
        arguments = hidden_ND, Output(*self.backbone.output()), batch.examples, self.settings
        return (
            LOSSES[self.name](*arguments).total if self.is_ours else RIVALS[self.name](*arguments)
        )


@dataclass(frozen=True)
class Steps:
    """Seconds and losses of counted steps, one after the other."""

    seconds: list[float]
    losses: list[float]


def alternate(names: Sequence[str], shape: Shape, num_steps: int) -> dict[str, Steps]:
    """Steps of several losses in turn, on the same batches with the same dropout.

    Who goes first changes from step to step.

    Args:
        names: Of losses, ours or rivals'.
        shape: What to train on.
        num_steps: To count for each, after the warm-up.
    """
    prepare_torch(shape.settings)
    contenders = [Contender(name, shape) for name in names]
    found = {name: Steps([], []) for name in names}
    for number in range(WARM_UP + num_steps):
        examples = batch(shape, seed=number)
        for contender in contenders[:: -1 if number % 2 else 1]:
            torch.manual_seed(number)
            started = time.perf_counter()
            loss = contender.step(examples)
            seconds = time.perf_counter() - started
            if number >= WARM_UP:
                found[contender.name].seconds.append(seconds)
                found[contender.name].losses.append(loss)
    return found


def memory_of_steps(name: str, shape: Shape, num_steps: int) -> dict[str, Any]:
    """Seconds and losses of a loss's first steps, and this process's peak memory in bytes.

    `resident_peak` is of the whole process during the steps; `added_peak` what they added to it.
    """
    prepare_torch(shape.settings)
    contender, examples = Contender(name, shape), batch(shape, seed=0)
    before = start_of_peak()
    seconds, losses = [], []
    for _ in range(num_steps):
        started = time.perf_counter()
        losses.append(contender.step(examples))
        seconds.append(time.perf_counter() - started)
    peak = own_bytes("VmHWM")
    return {
        "seconds": seconds,
        "losses": losses,
        "resident_peak": peak,
        "added_peak": peak - before,
    }


def start_of_peak() -> int:
    """Lets this process's peak begin anew, at what is resident now; returns that, in bytes."""
    Path("/proc/self/clear_refs").write_text("5")  # proc_pid_clear_refs(5), since Linux 4.0
    return own_bytes("VmRSS")


def own_bytes(field: str) -> int:
    """`VmRSS`, what is resident of this process, or `VmHWM`, the most since its peak began."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (kilobytes,) = (line.split()[1] for line in lines if line.startswith(field + ":"))
    return int(kilobytes) * 1024


def main(arguments: Sequence[str]) -> None:
    """Makes steps of one loss and prints what they took as JSON."""
    parser = argparse.ArgumentParser("python -m benchmarks.training_steps", description=__doc__)
    parser.add_argument("loss", choices=[*LOSSES, *RIVALS])
    parser.add_argument("--shape", choices=SHAPES, default="paper")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies the catalogue (1)")
    options = parser.parse_args(arguments)
    shape = SHAPES[options.shape].scaled(options.scale)
    print(json.dumps(memory_of_steps(options.loss, shape, options.steps)))


if __name__ == "__main__":
    main(sys.argv[1:])
