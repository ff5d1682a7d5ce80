"""One suite for all losses, each with a twin that follows its formula over dense soft labels."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.settings import TrainingSettings
from trainer.losses import LOSSES, Examples, decoupled


def cross_entropy_dense(logits_NV, targets, q_NV, settings):
    log_p = logits_NV - logits_NV.exp().sum(1, keepdim=True).log()
    return -log_p[torch.arange(len(targets)), targets].mean()


def decoupled_dense(logits_NV, targets, q_NV, settings):
    """The formula, example by example, item by item; columns are real items only."""
    losses = []
    for z, y, q in zip(logits_NV, targets, q_NV, strict=True):
        p, is_other = z.softmax(0), torch.arange(len(z)) != y
        c = settings.lambda1 * q[y] + 1 - settings.lambda1
        bce = -c * p[y].log() - (1 - c) * p[is_other].sum().log()
        p_hat = p[is_other] / p[is_other].sum()
        kl = z.new_zeros(())
        if q[is_other].sum() > 0:
            q_hat = q[is_other] / q[is_other].sum()
            kl = sum(b * (b / a).log() for a, b in zip(p_hat, q_hat, strict=True) if b > 0)
        losses.append(settings.lambda2 * bce + (1 - settings.lambda2) * kl)
    return torch.stack(losses).mean()


DENSE = {"cross_entropy": cross_entropy_dense, "decoupled": decoupled_dense}

share = st.sampled_from([0.0, 0.3, 0.5, 1.0])


@st.composite
def cases(draw):
    """Logits of real items, targets (from 1), dense q over real items, settings."""
    seed, num_items = draw(st.integers(0, 10_000)), draw(st.integers(2, 9))
    num_examples, scale = draw(st.integers(1, 5)), draw(st.sampled_from([0.1, 3.0, 12.0]))
    random = torch.Generator().manual_seed(seed)
    shape = (num_examples, num_items)
    logits = scale * torch.randn(shape, generator=random, dtype=torch.float64)
    is_kept = torch.rand(shape, generator=random) < draw(st.sampled_from([0.0, 0.4, 1.0]))
    q = torch.rand(shape, generator=random, dtype=torch.float64) * is_kept
    q = draw(st.sampled_from([1.0, 0.8])) * q / q.sum(1, keepdim=True).clamp_min(1e-9)
    targets = torch.randint(1, num_items + 1, (num_examples,), generator=random)
    settings = TrainingSettings(lambda1=draw(share), lambda2=draw(share))
    return logits, targets, q, settings


def sparse(targets, q_NV):
    """The same soft targets as the losses take them, entries in any order, padded with item 0."""
    num_items = q_NV.shape[1]
    items = torch.arange(num_items, 0, -1).expand(len(targets), -1)
    is_other = (items != targets[:, None]) & (q_NV.flip(1) > 0)
    return Examples(
        targets,
        q_NV.gather(1, targets[:, None] - 1)[:, 0],
        items * is_other,
        q_NV.flip(1) * is_other,
    )


def with_padding(logits_NV):
    return torch.cat([logits_NV.new_full((len(logits_NV), 1), -torch.inf), logits_NV], 1)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
def test_values_and_gradients_match_the_dense_formula(name, dtype, tolerance):
    @settings(deadline=None, derandomize=True)
    @given(cases())
    def check(case):
        logits, targets, q, made_with = case
        z, z_dense = (logits.clone().to(d).requires_grad_() for d in (dtype, torch.float64))
        total = LOSSES[name](with_padding(z), sparse(targets, q.to(dtype)), made_with).total
        expected = DENSE[name](z_dense, targets - 1, q, made_with)
        total.backward()
        expected.backward()
        close = {"rtol": tolerance, "atol": tolerance}
        torch.testing.assert_close(total.double(), expected, **close)
        torch.testing.assert_close(z.grad.double(), z_dense.grad, **close)

    check()


@pytest.mark.parametrize("name", LOSSES)
def test_the_padding_column_gets_no_gradient(name):
    z = with_padding(torch.zeros(1, 3)).requires_grad_()
    examples = sparse(torch.tensor([2]), torch.tensor([[0.2, 0.5, 0.3]]))
    LOSSES[name](z, examples, TrainingSettings()).total.backward()
    assert z.grad[0, 0] == 0


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("target_logit", [-1e30, -1e4, -100.0, 17.0, 40.0, 100.0, 1e4, 1e30])
def test_values_and_gradients_are_finite_at_extreme_logits(name, target_logit):
    z = with_padding(torch.tensor([[0.5, target_logit, -0.5]])).requires_grad_()
    examples = sparse(torch.tensor([2]), torch.tensor([[0.2, 0.5, 0.3]]))
    parts = LOSSES[name](z, examples, TrainingSettings(lambda1=0.5))
    parts.total.backward()
    assert torch.isfinite(torch.stack(parts)).all()
    assert torch.isfinite(z.grad).all()


@pytest.mark.parametrize("target_logit", [-60.0, 12.0, 16.7, 25.0, 60.0])
def test_decoupled_is_precise_where_the_target_is_nearly_certain(target_logit):
    logits = torch.tensor([[0.5, target_logit, -0.5]])
    targets, q = torch.tensor([2]), torch.tensor([[0.2, 0.5, 0.3]])
    settings = TrainingSettings(lambda1=0.5, lambda2=0.4)
    total = decoupled(with_padding(logits), sparse(targets, q), settings).total
    z = logits.double()
    rest = z[:, [0, 2]].logsumexp(1) - z.logsumexp(1)
    bce = -0.75 * (z[:, 1] - z.logsumexp(1)) - 0.25 * rest
    q_hat, log_p_hat = torch.tensor([0.4, 0.6]).double(), z[0, [0, 2]].log_softmax(0)
    expected = 0.4 * bce[0] + 0.6 * (q_hat * (q_hat.log() - log_p_hat)).sum()
    torch.testing.assert_close(total.double(), expected, rtol=1e-6, atol=1e-6)


def test_decoupled_without_lambda1_and_distribution_is_bce_of_the_observed_item():
    logits, targets = torch.randn(6, 5, dtype=torch.float64), torch.tensor([1, 2, 3, 4, 5, 1])
    q = torch.full((6, 5), 0.2, dtype=torch.float64)
    settings = TrainingSettings(lambda1=0.0, lambda2=1.0)
    p_y = logits.softmax(1)[torch.arange(6), targets - 1]
    total = decoupled(with_padding(logits), sparse(targets, q), settings).total
    torch.testing.assert_close(total, F.binary_cross_entropy(p_y, torch.ones_like(p_y)))


def test_decoupled_distribution_is_zero_without_other_items():
    logits, targets = torch.randn(2, 5), torch.tensor([1, 4])
    one_hot = Examples(targets, torch.ones(2), torch.zeros(2, 0).long(), torch.zeros(2, 0))
    assert decoupled(with_padding(logits), one_hot, TrainingSettings()).distribution == 0


def test_decoupled_ignores_the_order_and_scale_of_the_other_masses():
    logits, targets = torch.randn(1, 5, dtype=torch.float64), torch.tensor([2])
    masses = torch.tensor([[0.1, 0.3]], dtype=torch.float64)
    own = torch.tensor([0.5], dtype=torch.float64)
    first = Examples(targets, own, torch.tensor([[1, 4]]), masses)
    second = Examples(targets, own, torch.tensor([[4, 1]]), masses.flip(1) * 2)
    totals = [decoupled(with_padding(logits), e, TrainingSettings()).total for e in (first, second)]
    torch.testing.assert_close(totals[0], totals[1])


def test_decoupled_handles_a_catalogue_of_one_item():
    z = with_padding(torch.zeros(1, 1)).requires_grad_()
    examples = sparse(torch.tensor([1]), torch.tensor([[1.0]]))
    total = decoupled(z, examples, TrainingSettings()).total
    total.backward()
    assert torch.isfinite(total)
    assert torch.isfinite(z.grad).all()
