"""One suite for all backbones."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from schemas.settings import TrainingSettings
from trainer.backbones import BACKBONES, build

NUM_ITEMS = 30
VARIANTS = {
    "history_skip": {"history_skip": True},
    "plain": {"history_skip": False},
    "separate_output": {"tied_output": False},
}
ITEMS = torch.tensor([[3, 1, 4, 1, 5, 9], [2, 6, 5, 0, 0, 0]])


def settings_of(name, **changes):
    return TrainingSettings(backbone=name, width=16, max_length=8, **changes)


@pytest.fixture(params=BACKBONES)
def name(request):
    return request.param


@pytest.fixture(params=VARIANTS.values(), ids=VARIANTS)
def variant(request):
    return request.param


@pytest.fixture
def backbone(name, variant):
    return build(settings_of(name, **variant), NUM_ITEMS).eval()


def test_hidden_states_have_one_row_per_position(backbone):
    assert backbone(ITEMS).shape == (2, 6, 16)


def test_scores_have_one_column_per_item_index(backbone):
    assert backbone.score(backbone(ITEMS)[:, -1]).shape == (2, NUM_ITEMS + 1)


def test_padding_never_gets_probability(backbone):
    p = backbone.score(backbone(ITEMS)[:, -1]).softmax(1)
    assert (p[:, 0] == 0).all()
    assert (p[:, 1:] > 0).all()


def test_scores_are_products_with_the_output_layer(backbone):
    hidden = backbone(ITEMS)[:, 2]
    weight, bias = backbone.output()
    assert weight.shape == (NUM_ITEMS + 1, 16)
    assert bias[0] == -torch.inf
    assert torch.equal(bias[1:], backbone.item_bias)
    for row, scores in zip(hidden, backbone.score(hidden), strict=True):
        expected = torch.stack([b + (w * row).sum() for w, b in zip(weight, bias, strict=True)])
        torch.testing.assert_close(scores, expected)


def test_a_tied_output_is_the_item_embedding_and_a_separate_one_is_not(name):
    tied, separate = (build(settings_of(name, tied_output=t), NUM_ITEMS) for t in (True, False))
    assert tied.output()[0] is tied.item_embedding.weight
    assert not (separate.output()[0] == separate.item_embedding.weight)[1:].any()


@pytest.mark.parametrize("position", range(1, 6))
def test_later_inputs_do_not_change_earlier_hidden_states(backbone, position):
    changed = ITEMS.clone()
    changed[:, position:] = 17
    before, after = backbone(ITEMS), backbone(changed)
    torch.testing.assert_close(before[:, :position], after[:, :position])
    assert not torch.allclose(before[:, position], after[:, position])


def test_padding_does_not_change_real_positions(backbone):
    alone = backbone(ITEMS[1:, :3])
    torch.testing.assert_close(backbone(ITEMS)[1:, :3], alone)


def test_score_next_looks_at_the_last_real_position(backbone):
    together = backbone.score_next(ITEMS, torch.tensor([6, 3]))
    alone = backbone.score(backbone(ITEMS[1:, :3])[:, 2])
    torch.testing.assert_close(together[1:], alone)


def test_every_weight_but_unused_ones_gets_a_gradient(name, variant):
    backbone = build(settings_of(name, dropout=0.0, **variant), NUM_ITEMS)
    backbone.score(backbone(ITEMS)[:, -1]).log_softmax(1)[:, 1:].square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in backbone.parameters())


def test_the_padding_embedding_stays_zero_after_a_step(name, variant):
    backbone = build(settings_of(name, **variant), NUM_ITEMS)
    optimiser = torch.optim.AdamW(backbone.parameters(), lr=0.1)
    backbone.score(backbone(ITEMS).flatten(0, 1)).log_softmax(1)[:, 7].sum().backward()
    optimiser.step()
    assert (backbone.item_embedding.weight[0] == 0).all()
    assert (backbone.output()[0][0] == 0).all()


def test_the_same_seed_builds_the_same_weights(name):
    torch.manual_seed(1)
    first = build(settings_of(name), NUM_ITEMS).state_dict()
    torch.manual_seed(2)
    second = build(settings_of(name), NUM_ITEMS).state_dict()
    assert all(torch.equal(first[k], second[k]) for k in first)


def test_another_seed_builds_other_weights(name):
    first, second = (build(settings_of(name, seed=s), NUM_ITEMS) for s in (1, 2))
    assert not torch.equal(first.item_embedding.weight, second.item_embedding.weight)


def test_building_leaves_the_global_generator_alone(name):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    build(settings_of(name), NUM_ITEMS)
    assert torch.equal(torch.get_rng_state(), before)


def test_weights_survive_safetensors(name, variant, backbone, tmp_path):
    save_file(backbone.state_dict(), tmp_path / "weights.safetensors")
    other = build(settings_of(name, seed=99, **variant), NUM_ITEMS).eval()
    other.load_state_dict(load_file(tmp_path / "weights.safetensors"))
    hidden = backbone(ITEMS)
    assert torch.equal(other(ITEMS), hidden)
    assert torch.equal(other.score(hidden[0]), backbone.score(hidden[0]))


def test_a_new_model_that_starts_from_counts_recommends_what_is_popular(backbone):
    counts = np.arange(NUM_ITEMS + 1) ** 2
    backbone.start_from(counts)
    bias = backbone.item_bias.detach()
    expected = torch.from_numpy((counts[1:] + 1) / (counts[1:] + 1).sum()).float()
    torch.testing.assert_close(bias.softmax(0), expected)
    torch.testing.assert_close(bias.mean(), torch.tensor(0.0), atol=1e-6, rtol=0)


def test_item_dropout_hides_inputs_in_training_only(name):
    backbone = build(settings_of(name, dropout=0.0, item_dropout=0.9), NUM_ITEMS)
    torch.manual_seed(5)
    assert not torch.equal(backbone.train()(ITEMS), backbone.train()(ITEMS))
    assert torch.equal(backbone.eval()(ITEMS), backbone.eval()(ITEMS))


def test_the_history_skip_sees_every_item_alike():
    backbone = build(settings_of("gru4rec", history_skip=True), NUM_ITEMS).eval()
    backbone.encoded_weight = 0.0
    there, back = backbone(torch.tensor([[1, 2, 3, 2]])), backbone(torch.tensor([[2, 2, 3, 1]]))
    torch.testing.assert_close(there[:, -1], back[:, -1])
