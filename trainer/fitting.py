"""Fitting: the loop that turns batches into weights; interrupted anywhere, it resumes exactly.

N counted positions of a batch, D width, V items
"""

import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from schemas.errors import DataError
from schemas.settings import TrainingSettings
from trainer.backbones import Backbone
from trainer.batches import Batch, TrainingWindows
from trainer.checkpointing import Progress, ResumeState, copy_weights
from trainer.losses import LOSSES

WARM_UP_STEPS = 20
"""Steps over which the learning rate rises to its peak: Adam's first ones are the noisiest."""

SECONDS_BETWEEN_SAVES = 15.0
"""How much work a kill may cost; every epoch's end is saved too."""


@dataclass
class Fitting:
    """One training run.

    `validate` gives the validation NDCG@10 of the backbone as it is; None trains all epochs and
    keeps the last. `on_epoch` is told every finished epoch's number and metrics.
    """

    backbone: Backbone
    windows: TrainingWindows
    settings: TrainingSettings
    resume: ResumeState
    validate: Callable[[], float] | None
    on_epoch: Callable[[int, dict[str, float]], None]

    def run(self) -> Progress:
        """Trains until the last epoch or until validation stops improving.

        Raises:
            DataError: The loss or its gradient is not finite; names epoch and step.
        """
        self.optimiser = _optimiser(self.backbone, self.settings)
        torch.manual_seed(self.settings.seed)
        self.progress = self.resume.restore(self.backbone, self.optimiser)
        if self.progress.epochs or self.progress.batch:
            self._tell_where_it_resumes()
        while not self._is_finished():
            self._train_epoch()
            self._end_epoch()
        return self.progress

    def _tell_where_it_resumes(self) -> None:
        for number, metrics in enumerate(self.progress.epochs, start=1):
            self.on_epoch(number, metrics)
        done, total = self.progress.batch, self.windows.num_batches
        print(f"resumed in epoch {self.progress.epoch} after step {done} of {total}", flush=True)

    def _is_finished(self) -> bool:
        done, best = len(self.progress.epochs), self.progress.best_epoch
        is_stale = self.validate is not None and done - best >= self.settings.patience
        return done >= self.settings.epochs or (done > 0 and is_stale)

    def _train_epoch(self) -> None:
        progress, last = self.progress, time.monotonic()
        saved = last
        self.backbone.train()
        for batch in self._remaining_batches():
            sums = self._step(batch)
            now = time.monotonic()
            sums["seconds"], last = now - last, now
            for name, value in sums.items():
                progress.sums[name] = progress.sums.get(name, 0.0) + value
            progress.batch += 1
            if now - saved >= SECONDS_BETWEEN_SAVES:
                self.resume.save(progress, self.backbone, self.optimiser)
                saved = now

    def _remaining_batches(self) -> Iterator[Batch]:
        """The rest of the epoch, behind a progress bar where there is a terminal."""
        progress, total = self.progress, self.windows.num_batches
        batches = self.windows.epoch(progress.epoch, progress.batch)
        if not sys.stdout.isatty():
            return batches
        from rich.progress import track

        return iter(
            track(
                batches,
                f"epoch {progress.epoch}",
                total=total,
                completed=progress.batch,
                transient=True,
            )
        )

    def _step(self, batch: Batch) -> dict[str, float]:
        """One optimiser step; returns sums over the batch's examples."""
        settings, num_examples = self.settings, len(batch.positions_N)
        hidden_ND = self.backbone(batch.items_BL).flatten(0, 1)[batch.positions_N]
        parts = LOSSES[settings.loss](self.backbone.score(hidden_ND), batch.examples, settings)
        self.optimiser.zero_grad()
        parts.total.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.backbone.parameters(), settings.clip_norm)
        self._refuse_non_finite(parts.total.item(), norm.item())
        step = (self.progress.epoch - 1) * self.windows.num_batches + self.progress.batch + 1
        for group in self.optimiser.param_groups:
            group["lr"] = settings.learning_rate * min(1.0, step / WARM_UP_STEPS)
        self.optimiser.step()
        means = zip(("train_loss", "train_confidence", "train_distribution"), parts, strict=True)
        return {name: mean.item() * num_examples for name, mean in means} | {
            "num_examples": num_examples
        }

    def _refuse_non_finite(self, loss: float, norm: float) -> None:
        if not (math.isfinite(loss) and math.isfinite(norm)):
            rate = self.settings.learning_rate
            raise DataError(
                f"a loss of {loss} with gradient norm {norm} in epoch {self.progress.epoch}, "
                f"step {self.progress.batch + 1} of {self.windows.num_batches}",
                "finite numbers",
                f"lower training.learning_rate (now {rate:g}) or training.clip_norm; "
                "the checkpoint published before stays",
            )

    def _end_epoch(self) -> None:
        progress, sums = self.progress, dict(self.progress.sums)
        num_examples, seconds = sums.pop("num_examples"), sums.pop("seconds")
        metrics = {name: value / num_examples for name, value in sums.items()}
        started = time.monotonic()
        ndcg = self.validate() if self.validate else 0.0
        metrics["validation_ndcg_10"] = ndcg
        metrics["seconds"] = round(seconds + time.monotonic() - started, 3)
        best = progress.epochs[progress.best_epoch - 1] if progress.best_epoch else None
        if self.validate is None or best is None or ndcg > best["validation_ndcg_10"]:
            progress.best_epoch = progress.epoch
            progress.best_weights = copy_weights(self.backbone)
        progress.epochs.append(metrics)
        self.on_epoch(progress.epoch, metrics)
        progress.epoch, progress.batch, progress.sums = progress.epoch + 1, 0, {}
        self.resume.save(progress, self.backbone, self.optimiser)


def prepare_torch(settings: TrainingSettings) -> None:
    """Sets threads, and makes this process give the same bits for the same inputs."""
    torch.set_num_threads(settings.num_threads or len(os.sched_getaffinity(0)))
    torch.use_deterministic_algorithms(True)
    # Filling new buffers costs a pass over each and guards only against reading uninitialised ones.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def _optimiser(backbone: Backbone, settings: TrainingSettings) -> torch.optim.AdamW:
    """AdamW; biases and norms, which are vectors, do not decay."""
    parameters = list(backbone.parameters())
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.learning_rate, fused=True)
