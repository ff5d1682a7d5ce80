import numpy as np
import pytest
import torch

from schemas.errors import DataError
from trainer import scorer, scorer_files
from trainer.histories import from_lists

ITEM_IDS = [f"item-{n}" for n in range(12)]


@pytest.fixture
def items(publish_items):
    return publish_items(ITEM_IDS)


@pytest.fixture
def checkpoint(items, publish_model):
    return publish_model(items)


@pytest.fixture
def model(checkpoint, items):
    return scorer.from_checkpoint(checkpoint, items)


HISTORIES = from_lists([np.array([1, 2, 3]), np.array([4])])


def test_scores_are_the_backbones_after_the_last_item(model):
    expected = model.backbone.score_next(torch.tensor([[1, 2, 3]]), torch.tensor([3]))
    torch.testing.assert_close(model.score(HISTORIES)[:1], expected.detach())


def test_a_model_written_to_a_folder_scores_the_same(model, checkpoint, items, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    scorer_files.write(folder, checkpoint, items)
    read = scorer.from_folder(folder)
    torch.testing.assert_close(read.score(HISTORIES), model.score(HISTORIES), rtol=0, atol=0)
    assert read.item_ids == ITEM_IDS


def test_an_empty_history_is_scored_by_support(model):
    (scores,) = model.score(from_lists([np.array([], dtype=np.int64)]))
    assert scores[1:].argsort(descending=True).tolist() == list(range(12))


def test_padding_is_never_scored(model):
    assert model.score(HISTORIES)[:, 0].tolist() == [-torch.inf, -torch.inf]


def test_scores_that_are_not_finite_are_an_error(model):
    model.backbone.item_bias.data[3] = torch.nan
    with pytest.raises(DataError, match="not finite from a SASRec"):
        model.score(HISTORIES)


def test_recommendations_leave_out_what_was_seen(model):
    items, _ = model.recommend(HISTORIES, 12, exclude_seen=True)
    assert sorted(items[1].tolist()) == [0, 1, 2, 3, *range(5, 13)]


def test_more_recommendations_than_there_are_items_cost_nothing(model):
    items, _ = model.recommend(HISTORIES, 10**9, exclude_seen=False)
    assert items.shape == (len(HISTORIES), model.num_items)


def test_items_of_another_catalogue_are_renumbered(model):
    assert model.renumbering(["item-5", "new", "item-0"]).tolist() == [0, 6, 0, 1]


def test_a_checkpoint_of_other_items_is_refused(checkpoint, publish_items):
    with pytest.raises(DataError, match=r"re-run python -m trainer\.training --ds 2017-10-31"):
        scorer.from_checkpoint(checkpoint, publish_items(ITEM_IDS[:5]))
