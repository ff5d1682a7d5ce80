"""Validation: NDCG@10 and the loss between epochs, on positions that training never sees.

NDCG@10 is measured as evaluation measures the holdout, the loss as training measures its own.

B users scored at once, V items (columns 0..V, column 0 is padding)
"""

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from schemas.settings import EvaluationSettings, TrainingSettings
from trainer.backbones import Backbone
from trainer.examples import Examples, Output
from trainer.histories import Histories, whole
from trainer.holdout import Holdout, holdout_of
from trainer.losses import LOSSES, draws_of
from trainer.metrics import metrics_of_ranks
from trainer.ranking import exclude, ranks, users_at_once
from trainer.soft_targets import SoftTargets

LOSS_NAMES = ("validation_loss", "validation_confidence", "validation_distribution")


def validation_of(sequences: pa.Table, num_items: int, *, exclude_seen: bool) -> Holdout:
    """The validation positions in the place of the holdout, which is left out.

    Args:
        sequences: Rows of the sequences table.
        num_items: V of the items table.
        exclude_seen: As in evaluation: items a user already has are neither ranked nor sought.
    """
    everything, num_validation = whole(sequences), sequences["num_validation"].to_numpy()
    num_kept = sequences["num_train"].to_numpy() + num_validation
    kept = Histories(everything.items, everything.starts, everything.starts + num_kept)
    offsets = np.concatenate([[0], np.cumsum(kept.lengths)]).astype(np.int32)
    columns = {
        "item_indices": pa.ListArray.from_arrays(offsets, kept.positions()[1]),
        "num_holdout": num_validation,
    }
    return holdout_of(pa.table(columns), num_items, exclude_seen=exclude_seen)


def ndcg_10(backbone: Backbone, validation: Holdout, settings: EvaluationSettings) -> float:
    """Mean NDCG@10 over users with something to find; whole catalogue, exact ranks."""
    values = []
    size = users_at_once(settings.batch_size, backbone.num_items)
    for start in range(0, len(validation), size):
        batch = slice(start, start + size)
        users, relevant = validation.users[batch], validation.relevant[batch]
        seen = validation.counts[users] if validation.exclude_seen else None
        scores_BV = exclude(_scores(backbone, validation.histories.take(users)), seen)
        values.append(metrics_of_ranks(ranks(scores_BV, relevant), relevant)["ndcg@10"])
    return float(np.concatenate(values).mean())


@torch.no_grad()
def validation_loss(
    backbone: Backbone,
    validation: Holdout,
    soft_targets: SoftTargets,
    settings: TrainingSettings,
    log_sampling_V: Tensor | None = None,
    user_numbers: np.ndarray | None = None,
) -> dict[str, float]:
    """The training loss of what follows each user's training positions, without dropout.

    The observed item is the first of those the user should be recommended; its soft target is
    what training would look up. The same negatives are drawn at every call, and torch's generator
    is left as it was, so that a resumed run draws what an uninterrupted one does.

    Args:
        backbone: The model; left in evaluation mode.
        validation: As `validation_of` makes it.
        soft_targets: What to look examples up in.
        settings: The training section, with λ1 and λ2 as training has them by now.
        log_sampling_V: How sampled losses draw; see `Output`.
        user_numbers: What number the soft targets give to each row of the sequences that
            `validation` was made of, where these are not all of the night's.

    Returns:
        The mean over users by the names of `LOSS_NAMES`, in nats: the loss and its two parts;
        nothing without users.
    """
    if not len(validation):
        return {}
    backbone.eval()
    weight_VD, bias_V = backbone.output()
    # Detached, as losses make gradients with their values for whatever asks for them.
    output = Output(weight_VD.detach(), bias_V.detach(), log_sampling_V)
    sums = torch.zeros(len(LOSS_NAMES), dtype=torch.float64)
    with draws_of(settings, 0, weight_VD.device):
        for start in range(0, len(validation), settings.batch_size):
            batch = slice(start, start + settings.batch_size)
            users = validation.users[batch]
            items_BL, lengths_B = _last(backbone, validation.histories.take(users))
            last = torch.arange(len(users)), lengths_B - 1
            hidden_BD = backbone(items_BL)[last]
            targets_B = torch.from_numpy(validation.next_items[batch])
            numbers_B = users if user_numbers is None else user_numbers[users]
            inputs_B = items_BL[last].cpu()
            examples = soft_targets.examples(targets_B, torch.from_numpy(numbers_B), inputs_B)
            examples = Examples(*(t.to(hidden_BD.device) for t in vars(examples).values()))
            parts = LOSSES[settings.loss](hidden_BD, output, examples, settings)
            sums += torch.stack(parts).double().cpu() * len(users)
    return dict(zip(LOSS_NAMES, (sums / len(validation)).tolist(), strict=True))


@torch.inference_mode()
def _scores(backbone: Backbone, histories: Histories) -> Tensor:
    backbone.eval()
    return backbone.score_next(*_last(backbone, histories)).cpu()


def _last(backbone: Backbone, histories: Histories) -> tuple[Tensor, Tensor]:
    """Items [B, L] and lengths [B] that a backbone can see, on its device."""
    device = backbone.item_bias.device
    items_BL, lengths_B = map(torch.from_numpy, histories.last(backbone.max_length))
    return items_BL.to(device), lengths_B.to(device)
