import numpy as np
import pyarrow as pa
import pytest
import torch

from schemas.settings import EvaluationSettings, TrainingSettings
from trainer.backbones import build
from trainer.validation import ndcg_10, validation_of

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
