"""Fitting: the loop that turns batches into weights; interrupted anywhere, it resumes exactly.

N counted positions of a batch, D width, V items
"""

import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch

from schemas.errors import DataError
from schemas.settings import TrainingSettings
from trainer.backbones import Backbone
from trainer.batches import Batch, TrainingWindows
from trainer.checkpointing import Progress, ResumeState, copy_weights
from trainer.examples import LossParts, Output
from trainer.losses import DRAW_ALIKE, DRAW_NEGATIVES, LOSSES, draws_of
from trainer.ranks import Ranks
from trainer.sampled_losses import log_sampling

SECONDS_BETWEEN_SAVES = 15.0
"""How much work a kill may cost where a save takes little; every epoch's end is saved too."""

WORK_PER_SAVE = 10.0
"""How much longer than a save the work before the next is at least; large models take seconds."""


@dataclass
class Fitting:
    """One training run, or one rank's share of it.

    `validate` gives `validation_ndcg_10` of the backbone as it is, and whatever else is to be
    logged; None trains all epochs and keeps the last. `on_epoch` is told every finished epoch's
    number and metrics. With several ranks the first alone does both.
    """

    backbone: Backbone
    windows: TrainingWindows
    settings: TrainingSettings
    resume: ResumeState
    validate: Callable[[], dict[str, float]] | None
    on_epoch: Callable[[int, dict[str, float]], None]
    ranks: Ranks = field(default_factory=Ranks.of_process)

    def run(self) -> Progress:
        """Trains until the last epoch or until validation stops improving.

        Raises:
            DataError: The loss, its gradient or an epoch's weights are not finite, or the loss has
                exploded; names epoch and step.
        """
        self.optimiser = _optimiser(self.backbone, self.settings)
        self.device = self.backbone.item_bias.device
        self.log_sampling_V = None
        if self.settings.loss in DRAW_NEGATIVES:
            counts_V = self.windows.target_counts(self.backbone.num_items)
            power = 0.0 if self.settings.loss in DRAW_ALIKE else self.settings.negative_power
            sampling_V = log_sampling(torch.from_numpy(counts_V), power)
            self.log_sampling_V = sampling_V.to(self.device)
        torch.manual_seed(self.settings.seed + self.ranks.rank)
        self.progress = self.resume.restore(self.backbone, self.optimiser, self.ranks)
        if (self.progress.epochs or self.progress.batch) and self.ranks.is_first:
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
        due = last + SECONDS_BETWEEN_SAVES
        self.backbone.train()
        for batch in self._remaining_batches():
            sums = self._step(batch)
            now = time.monotonic()
            sums["seconds"], last = now - last, now
            for name, value in sums.items():
                progress.sums[name] = progress.sums.get(name, 0.0) + value
            progress.batch += 1
            if self.ranks.from_first(now >= due):
                self._save()
                saved = time.monotonic()
                due = saved + max(SECONDS_BETWEEN_SAVES, WORK_PER_SAVE * (saved - now))

    def _remaining_batches(self) -> Iterator[Batch]:
        """The rest of the epoch, behind a progress bar where there is a terminal."""
        progress, total = self.progress, self.windows.num_batches
        share = self.ranks.rank, self.ranks.size
        batches = self.windows.epoch(progress.epoch, progress.batch, share)
        if not (sys.stdout.isatty() and self.ranks.is_first):
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
        """One optimiser step; returns sums over the batch's examples, of all ranks."""
        self.optimiser.zero_grad()
        num_examples = len(batch.positions_N)
        sums = torch.zeros(4, device=self.device)
        if num_examples:
            parts = self._loss(batch)
            parts.total.backward()
            sums[:3] = torch.stack(parts).detach() * num_examples
            sums[3] = num_examples
        self._add_up_gradients(num_examples, sums)
        norm = torch.nn.utils.clip_grad_norm_(self.backbone.parameters(), self.settings.clip_norm)
        *of_parts, total_examples = sums.tolist()
        self._refuse_bad(of_parts[0] / total_examples, norm.item())
        for group in self.optimiser.param_groups:
            group["lr"] = self.settings.learning_rate * self._learning_rate_factor()
        self.optimiser.step()
        names = ("train_loss", "train_confidence", "train_distribution")
        return dict(zip(names, of_parts, strict=True)) | {"num_examples": total_examples}

    def _loss(self, batch: Batch) -> LossParts:
        batch = batch.to(self.device)
        is_low = self.settings.precision == "bfloat16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=is_low):
            hidden_BLD = self.backbone(batch.items_BL)
        hidden_ND = hidden_BLD.float().flatten(0, 1)[batch.positions_N]
        output = Output(*self.backbone.output(), self.log_sampling_V)
        with draws_of(self.settings, self._num_steps, self.device):
            settings = self._softened(self._num_steps)
            return LOSSES[self.settings.loss](hidden_ND, output, batch.examples, settings)

    def settings_of_epoch(self) -> TrainingSettings:
        """The settings with λ1 and λ2 as they were in the mean over the epoch that has ended.

        Losses are linear in each, so one of these is comparable with the epoch's training loss.
        """
        return self._softened(self._num_steps - (self.windows.num_batches + 1) / 2)

    def _softened(self, step: float) -> TrainingSettings:
        """The settings with λ1 and λ2 as they are after so many steps."""
        settings = self.settings
        if settings.softness == "constant":
            return settings
        left = 1 - step / (settings.epochs * self.windows.num_batches)
        now = {"lambda1": left * settings.lambda1, "lambda2": 1 - left * (1 - settings.lambda2)}
        return settings.model_copy(update=now)

    def _add_up_gradients(self, num_examples: int, sums: torch.Tensor) -> None:
        """Makes gradients and sums those of the whole batch, of which a rank has a share."""
        if self.ranks.size == 1:
            return
        gradients = []
        for parameter in self.backbone.parameters():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            gradients.append(parameter.grad.mul_(num_examples))
        self.ranks.add_up([sums, *gradients])
        for gradient in gradients:
            gradient.div_(sums[3])

    @property
    def _num_steps(self) -> int:
        """Steps that are done, of all epochs."""
        return (self.progress.epoch - 1) * self.windows.num_batches + self.progress.batch

    def _learning_rate_factor(self) -> float:
        """Share of the peak at this step: a linear rise, then as `schedule` says."""
        settings, step = self.settings, self._num_steps + 1
        if step <= settings.warm_up_steps:
            return step / settings.warm_up_steps
        if settings.schedule == "constant":
            return 1.0
        rest = settings.epochs * self.windows.num_batches - settings.warm_up_steps
        return (1 + math.cos(math.pi * (step - settings.warm_up_steps) / rest)) / 2

    def _refuse_bad(self, loss: float, norm: float) -> None:
        progress, settings = self.progress, self.settings
        if math.isfinite(loss):
            progress.first_loss = progress.first_loss or loss
        limit = settings.explosion * max(abs(progress.first_loss), 1.0)
        if not (math.isfinite(loss) and math.isfinite(norm) and abs(loss) <= limit):
            raise DataError(
                f"a loss of {loss:g} with gradient norm {norm:g} in epoch {progress.epoch}, "
                f"step {progress.batch + 1} of {self.windows.num_batches}",
                f"finite numbers, and a loss of at most {limit:g} (training.explosion)",
                f"lower training.learning_rate (now {settings.learning_rate:g}) or "
                "training.clip_norm; the checkpoint published before stays",
            )

    def _end_epoch(self) -> None:
        self._refuse_broken_weights()
        progress, sums = self.progress, dict(self.progress.sums)
        num_examples, seconds = sums.pop("num_examples"), sums.pop("seconds")
        metrics = {name: value / num_examples for name, value in sums.items()}
        started = time.monotonic()
        if self.validate and self.ranks.is_first:
            metrics |= self.validate()
        metrics["seconds"] = round(seconds + time.monotonic() - started, 3)
        metrics = self.ranks.from_first(metrics)
        if self.validate is None or self._is_best(metrics):
            progress.best_epoch = progress.epoch
            progress.best_weights = copy_weights(self.backbone)
        progress.epochs.append(metrics)
        if self.ranks.is_first:
            self.on_epoch(progress.epoch, metrics)
        progress.epoch, progress.batch, progress.sums = progress.epoch + 1, 0, {}
        self._save()

    def _refuse_broken_weights(self) -> None:
        """Checks what the epoch's last step made: no further loss would tell."""
        broken = [n for n, w in self.backbone.named_parameters() if not torch.isfinite(w).all()]
        if broken:
            raise DataError(
                f"numbers that are not finite in {broken[0]} after epoch {self.progress.epoch}",
                "finite weights",
                f"lower training.learning_rate (now {self.settings.learning_rate:g}); "
                "the checkpoint published before stays",
            )

    def _is_best(self, metrics: dict[str, float]) -> bool:
        epochs, best = self.progress.epochs, self.progress.best_epoch
        name = "validation_ndcg_10"
        return best == 0 or metrics[name] > epochs[best - 1][name]

    def _save(self) -> None:
        self.resume.save(self.progress, self.backbone, self.optimiser, self.ranks)


def prepare_torch(settings: TrainingSettings) -> None:
    """Sets threads, and makes this process give the same bits for the same inputs."""
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    cores = max(1, len(os.sched_getaffinity(0)) // processes)
    torch.set_num_threads(settings.num_threads or cores)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what CUDA needs for the same bits
    torch.set_deterministic_debug_mode("error")  # the same for us, without loading a compiler
    # Filling new buffers costs a pass over each and guards only against reading uninitialised ones.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def has_fast(precision: str, device: torch.device) -> bool:
    """Whether matrix products of this precision are not slower here than float32's.

    Without AVX-512 a CPU has to take bfloat16 apart for every product. A GPU is taken at its word.
    """
    if precision == "float32" or device.type != "cpu":
        return True
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def device_of_process() -> torch.device:
    """This rank's GPU where there is one, else the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def _optimiser(backbone: Backbone, settings: TrainingSettings) -> torch.optim.AdamW:
    """AdamW; biases and norms, which are vectors, do not decay."""
    parameters = list(backbone.parameters())
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.learning_rate, fused=True)
