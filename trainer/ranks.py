"""Ranks: one training run over several processes, each with its share of every batch.

`training.processes`, or torchrun over several machines, starts them. The first rank is the stage
as always: it resolves inputs, tracks, validates, saves and publishes. The others are told the
night, train along, and write nothing. With one process nothing is ever sent.
"""

import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from schemas.collector import at_work
from schemas.command import Night, Stage, fail, run
from schemas.errors import NEVER_RETRIED, PenumbraError
from schemas.process import PARENT_VARIABLE, die_with_parent
from schemas.scratch import scratch_folder

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """Which of how many processes this is, and what they tell each other."""

    rank: int = 0
    size: int = 1

    @classmethod
    def of_process(cls) -> "Ranks":
        """As the process group has it; one rank without a group."""
        if not dist.is_initialized():
            return cls()
        return cls(dist.get_rank(), dist.get_world_size())

    @property
    def is_first(self) -> bool:
        """Whether this one speaks for all: prints, validates, saves."""
        return self.rank == 0

    def add_up(self, tensors: Iterable[Tensor]) -> None:
        """Makes every tensor the sum of all ranks', in place."""
        if self.size > 1:
            for sent in [dist.all_reduce(tensor, async_op=True) for tensor in tensors]:
                sent.wait()

    def from_first(self, value: T) -> T:
        """The first rank's value, on all ranks."""
        if self.size == 1:
            return value
        box: list[Any] = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def gather(self, tensor: Tensor) -> list[Tensor]:
        """Every rank's tensor of one shape, in their order, on all ranks."""
        if self.size == 1:
            return [tensor]
        gathered = [torch.empty_like(tensor) for _ in range(self.size)]
        dist.all_gather(gathered, tensor)
        return gathered


def spread(stage: Stage, num_processes: int) -> None:
    """Runs this very command with torchrun in that many processes, unless it is one of them.

    Does not return where it does, but exits as the processes did: with the exit code of a rank
    that had an error of the project's own, since that decides whether to try again. The processes
    die with this one, as it does with whoever started the stage.
    """
    if num_processes == 1 or "WORLD_SIZE" in os.environ:
        return
    from torch.distributed import run as torchrun
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    sys.stdout.flush()
    os.environ[PARENT_VARIABLE] = str(os.getpid())
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # training sets its own number of threads
    # torchrun would leave a folder for the output of ranks, which it does not even redirect.
    options = ["--standalone", f"--nproc-per-node={num_processes}"]
    options += [f"--log-dir={scratch_folder('torchrun-')}"]
    try:
        torchrun.run(torchrun.parse_args([*options, "-m", stage.module, *sys.argv[1:]]))
    except ChildFailedError as error:
        codes = [failure.exitcode for failure in error.failures.values()]
        own = [code for code in codes if code in NEVER_RETRIED]
        sys.exit(own[0] if own else 1)
    sys.exit(0)


@at_work()
def run_ranks(stage: Stage, main: Callable[[Night], Any]) -> NoReturn:
    """As `schemas.command.run`, over all processes that torchrun started.

    Ranks that follow get the night from the first, or None where nothing is left to do; then
    they end too. A rank that fails ends the others through torchrun.
    """
    if "WORLD_SIZE" not in os.environ:
        run(stage, main)
    die_with_parent()
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    ranks = Ranks.of_process()
    if ranks.is_first:
        _lead(stage, main, ranks)
    night = ranks.from_first(None)
    if night is not None:
        try:
            main(night)
        except PenumbraError as error:
            fail(stage, error)
    dist.destroy_process_group()
    sys.exit(0)


def _lead(stage: Stage, main: Callable[[Night], Any], ranks: Ranks) -> NoReturn:
    told: list[Night] = []

    def lead(night: Night) -> None:
        told.append(ranks.from_first(night))
        main(night)

    try:
        run(stage, lead)
    except SystemExit as ending:
        if not told:
            ranks.from_first(None)
        if not ending.code:
            dist.destroy_process_group()
        raise
