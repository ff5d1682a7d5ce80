import numpy as np
import pyarrow as pa
import pytest
import torch

from schemas.settings import EvaluationSettings, TrainingSettings
from trainer.backbones import build
from trainer.losses import LOSSES
from trainer.soft_targets import Rows, SoftTargets, no_soft_targets
from trainer.user_rows import UserRows
from trainer.validation import ndcg_10, validation_loss, validation_of

SEQUENCES = pa.table(
    {
        "item_indices": pa.array([[1, 2, 3, 9], [4, 5, 4], [6, 7]], pa.list_(pa.int32())),
        "num_train": pa.array([2, 1, 1], pa.int32()),
        "num_validation": pa.array([1, 2, 0], pa.int32()),
        "num_holdout": pa.array([1, 0, 1], pa.int32()),
    }
)


def lists_of(histories):
    return [histories.take(np.array([u])).positions()[1].tolist() for u in range(len(histories))]


def test_histories_end_where_training_ends():
    validation = validation_of(SEQUENCES, 9, exclude_seen=False)
    assert lists_of(validation.histories) == [[1, 2], [4], [6]]


@pytest.mark.parametrize(
    ("exclude_seen", "relevant"), [(False, {0: [3], 1: [4, 5]}), (True, {0: [3], 1: [5]})]
)
def test_validation_items_are_sought_and_holdout_items_never(exclude_seen, relevant):
    validation = validation_of(SEQUENCES, 9, exclude_seen=exclude_seen)
    found = {
        int(u): sorted(validation.relevant[n].indices.tolist())
        for n, u in enumerate(validation.users)
    }
    assert found == relevant


def test_without_validation_positions_nobody_is_asked():
    none = SEQUENCES.set_column(2, "num_validation", pa.array([0, 0, 0], pa.int32()))
    assert len(validation_of(none, 9, exclude_seen=True)) == 0


@pytest.mark.parametrize(("favourite", "expected"), [(3, 1.0), (1, 1.0), (9, 1 / np.log2(3))])
def test_ndcg_is_that_of_the_models_ranking(favourite, expected):
    backbone = build(TrainingSettings(width=4), 9)
    with torch.no_grad():
        backbone.item_embedding.weight.zero_()
        backbone.item_bias.copy_(torch.tensor([0, 0, 2, 0, 0, 0, 0, 0, 0.0]))
        backbone.item_bias[favourite - 1] = 3
    only_first = SEQUENCES.slice(0, 1)
    validation = validation_of(only_first, 9, exclude_seen=True)
    assert ndcg_10(backbone, validation, EvaluationSettings()) == pytest.approx(expected)


def test_the_batch_size_does_not_change_the_value():
    backbone = build(TrainingSettings(width=4), 9)
    validation = validation_of(SEQUENCES, 9, exclude_seen=True)
    one, many = (ndcg_10(backbone, validation, EvaluationSettings(batch_size=b)) for b in (1, 9))
    assert one == pytest.approx(many)


SOFT = TrainingSettings(width=4, loss="decoupled", dropout=0.5, lambda1=1.0, lambda2=0.25)


def followed():
    """User 0 comes to item 3 after items 1 and 2, user 1 to item 5 after item 4."""
    return validation_of(SEQUENCES, 9, exclude_seen=False)


def soft_targets(beta=0.0):
    """A third of item 3's mass is on itself, the rest on item 8; user 1's is all on item 7."""
    own_masses_V = torch.ones(10)
    own_masses_V[3] = 1 / 3
    others = Rows(torch.zeros(10, 1, dtype=torch.int32), torch.zeros(10, 1))
    others.items_RK[3], others.masses_RK[3] = 8, 2 / 3
    users = UserRows(np.array([0, 1, 1]), np.array([7], np.int32), np.array([1], np.float32))
    return SoftTargets(own_masses_V, others, users if beta else None, beta)


def by_popularity(settings, bias=(0, 0, 2, 0, 1, 0, 0, 3, 0)):
    """A backbone whose logits are the biases of items 1 to 9, whatever the history."""
    backbone = build(settings, 9)
    with torch.no_grad():
        backbone.item_embedding.weight.zero_()
        backbone.item_bias.copy_(torch.tensor(bias))
    return backbone


def test_the_cross_entropy_is_that_of_what_follows_training():
    settings = TrainingSettings(width=4, loss="cross_entropy")
    backbone = by_popularity(settings)
    found = validation_loss(backbone, followed(), no_soft_targets(9), settings)
    log_p = backbone.item_bias.detach().log_softmax(0)
    expected = -(log_p[3 - 1] + log_p[5 - 1]).item() / 2
    assert found == pytest.approx(
        {
            "validation_loss": expected,
            "validation_confidence": expected,
            "validation_distribution": 0.0,
        }
    )


def test_the_two_parts_of_the_decoupled_loss_are_those_of_the_soft_targets():
    """KL is that of user 0 alone, all on item 8; confidence aims at 1/3 and at 1."""
    backbone = by_popularity(SOFT)
    found = validation_loss(backbone, followed(), soft_targets(), SOFT)
    p = backbone.item_bias.detach().softmax(0)
    p_3, p_5, p_8 = (p[item - 1].item() for item in (3, 5, 8))
    of_3 = -(np.log(p_3) / 3 + 2 / 3 * np.log(1 - p_3))
    kl = -np.log(p_8 / (1 - p_3))
    confidence, distribution = (of_3 - np.log(p_5)) / 2, kl / 2
    assert found["validation_confidence"] == pytest.approx(confidence, rel=1e-5)
    assert found["validation_distribution"] == pytest.approx(distribution, rel=1e-5)
    assert found["validation_loss"] == pytest.approx(
        0.25 * confidence + 0.75 * distribution, rel=1e-5
    )


def test_users_may_have_other_numbers_in_the_soft_targets():
    """With β = 1 user 1's own row leads to item 7; under number 2 there is none."""
    backbone, targets = by_popularity(SOFT), soft_targets(beta=1.0)
    alike, other = (
        validation_loss(backbone, followed(), targets, SOFT, user_numbers=np.array(numbers))
        for numbers in ([0, 1, 2], [0, 2, 1])
    )
    assert alike == validation_loss(backbone, followed(), targets, SOFT)
    assert alike["validation_distribution"] > other["validation_distribution"]


def test_the_batch_size_does_not_change_the_loss():
    one, many = (
        validation_loss(
            build(SOFT, 9), followed(), soft_targets(), SOFT.model_copy(update={"batch_size": size})
        )
        for size in (1, 9)
    )
    assert one == pytest.approx(many)


@pytest.mark.parametrize("loss", LOSSES)
def test_validating_draws_the_same_each_time_and_nothing_from_torchs_generator(loss):
    settings = SOFT.model_copy(update={"loss": loss})
    backbone, before = build(settings, 9).train(), torch.get_rng_state()
    first = validation_loss(backbone, followed(), soft_targets(), settings)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(1)
    assert validation_loss(backbone, followed(), soft_targets(), settings) == first


def test_validating_spends_nothing_on_gradients(monkeypatch):
    monkeypatch.delattr("trainer.full_losses.Gradients.add")
    assert validation_loss(build(SOFT, 9), followed(), soft_targets(), SOFT)


def test_without_users_there_is_no_loss():
    none = SEQUENCES.set_column(2, "num_validation", pa.array([0, 0, 0], pa.int32()))
    nobody = validation_of(none, 9, exclude_seen=False)
    assert validation_loss(build(SOFT, 9), nobody, soft_targets(), SOFT) == {}
