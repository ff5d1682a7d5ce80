"""One suite for all losses, each with a twin that follows its formula over dense soft labels."""

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import trainer.full_losses
from benchmarks.training_steps import own_bytes, start_of_peak
from schemas.settings import TrainingSettings
from trainer.examples import Examples, Output
from trainer.full_losses import rows_at_once
from trainer.losses import DRAW_NEGATIVES, LOSSES, USE_SOFT_TARGETS
from trainer.sampled_losses import draw, log_sampling

NUM_NEGATIVES = 4


def cross_entropy_dense(z_V, y, q_V, negatives, made_with):
    return -(z_V[y] - z_V.exp().sum().log())


def label_smoothing_dense(z_V, y, q_V, negatives, made_with):
    aim_V = torch.full_like(z_V, made_with.label_smoothing / len(z_V))
    aim_V[y] += 1 - made_with.label_smoothing
    return -(aim_V * z_V.log_softmax(0)).sum()


def soft_labels_dense(z_V, y, q_V, negatives, made_with):
    aim_V = q_V / q_V.sum() if q_V.sum() > 0 else F.one_hot(y, len(z_V)).double()
    return -(aim_V * z_V.log_softmax(0)).sum()


def decoupled_dense(z_V, y, q_V, negatives, made_with):
    p_V, is_other = z_V.softmax(0), torch.arange(len(z_V)) != y
    c = made_with.lambda1 * q_V[y] + 1 - made_with.lambda1
    bce = -c * p_V[y].log() - (1 - c) * p_V[is_other].sum().log()
    p_hat = p_V[is_other] / p_V[is_other].sum()
    kl = z_V.new_zeros(())
    if q_V[is_other].sum() > 0:
        q_hat = q_V[is_other] / q_V[is_other].sum()
        kl = sum(b * (b / a).log() for a, b in zip(p_hat, q_hat, strict=True) if b > 0)
    return made_with.lambda2 * bce + (1 - made_with.lambda2) * kl


def sampled_softmax_dense(z_V, y, q_V, negatives, made_with):
    others = sum(z_V[j].exp() / times for j, times in negatives if j != y)
    return -(z_V[y].exp() / (z_V[y].exp() + others)).log()


def bce_dense(z_V, y, q_V, negatives, made_with, beta=1.0):
    others = [(1 - z_V[j].sigmoid()).log() for j, _ in negatives if j != y]
    return -((z_V[y].sigmoid() ** beta).log() + sum(others)) / (1 + len(others))


def gbce_dense(z_V, y, q_V, negatives, made_with):
    rate = min(1, made_with.num_negatives / (len(z_V) - 1))
    t = made_with.gbce_calibration
    beta = rate * (t * (1 - 1 / rate) + 1 / rate)
    return bce_dense(z_V, y, q_V, negatives, made_with, beta)


def bpr_dense(z_V, y, q_V, negatives, made_with):
    others = [-(z_V[y] - z_V[j]).sigmoid().log() for j, _ in negatives if j != y]
    return sum(others) / len(others) if others else 0 * z_V.sum()


DENSE = {
    "cross_entropy": cross_entropy_dense,
    "label_smoothing": label_smoothing_dense,
    "soft_labels": soft_labels_dense,
    "decoupled": decoupled_dense,
    "sampled_softmax": sampled_softmax_dense,
    "bce": bce_dense,
    "gbce": gbce_dense,
    "bpr": bpr_dense,
}
"""One example's loss from the logits of real items, literally; negatives with their E_j."""

share = st.sampled_from([0.0, 0.3, 0.5, 1.0])


@st.composite
def cases(draw):
    """Hidden states, output layer of real items, targets (from 1), dense q, settings."""
    seed, num_items = draw(st.integers(0, 10_000)), draw(st.integers(2, 9))
    num_examples, scale = draw(st.integers(1, 5)), draw(st.sampled_from([0.1, 1.0, 2.5]))
    random = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return scale * torch.randn(shape, generator=random, dtype=torch.float64)

    hidden, weight, bias = normal(num_examples, 3), normal(num_items, 3), normal(num_items)
    shape = (num_examples, num_items)
    is_kept = torch.rand(shape, generator=random) < draw(st.sampled_from([0.0, 0.4, 1.0]))
    q = torch.rand(shape, generator=random, dtype=torch.float64) * is_kept
    q = draw(st.sampled_from([1.0, 0.8])) * q / q.sum(1, keepdim=True).clamp_min(1e-9)
    targets = torch.randint(1, num_items + 1, (num_examples,), generator=random)
    made_with = TrainingSettings(
        lambda1=draw(share),
        lambda2=draw(share),
        label_smoothing=draw(st.sampled_from([0.0, 0.2])),
        num_negatives=NUM_NEGATIVES,
        gbce_calibration=draw(share),
    )
    power = draw(st.sampled_from([None, 0.0, 0.7]))
    counts = torch.arange(num_items + 1)
    sampling = None if power is None else log_sampling(counts, power)
    return (hidden, weight, bias), targets, q, sampling, made_with


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


def with_padding(weight_VD, bias_V):
    """The output layer that real items are rows 1.. of."""
    weight_VD = torch.cat([torch.zeros_like(weight_VD[:1]), weight_VD])
    return Output(weight_VD, torch.cat([bias_V.new_full((1,), -torch.inf), bias_V]))


def loss_of(name, logits_NV, examples, made_with):
    """A loss of given logits of real items: hidden states are the logits, items unit vectors."""
    num_items = logits_NV.shape[1]
    output = with_padding(torch.eye(num_items), torch.zeros(num_items))
    output = Output(*(t.to(logits_NV.dtype) for t in output[:2]))
    return LOSSES[name](logits_NV, output, examples, made_with)


def dense_mean(name, parameters, targets, q, sampling, made_with):
    hidden, weight, bias = parameters
    torch.manual_seed(5)
    output = Output(*with_padding(weight, bias)[:2], sampling)
    negatives, log_expected = draw(output, made_with.num_negatives)
    pairs = [(j - 1, e.exp()) for j, e in zip(negatives, log_expected, strict=True)]
    logits = hidden @ weight.T + bias
    rows = zip(logits, targets - 1, q, strict=True)
    return torch.stack([DENSE[name](z, y, of_y, pairs, made_with) for z, y, of_y in rows]).mean()


@pytest.mark.parametrize(
    ("name", "chunk"),
    # Losses that draw negatives have no chunks.
    [
        (name, chunk)
        for name in LOSSES
        for chunk in ((99,) if name in DRAW_NEGATIVES else (1, 2, 99))
    ],
)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 3e-5)])
def test_values_and_gradients_match_the_dense_formula(name, dtype, tolerance, chunk, monkeypatch):
    monkeypatch.setattr(trainer.full_losses, "rows_at_once", lambda *_: chunk)

    @settings(deadline=None, derandomize=True, max_examples=40)
    @given(cases())
    def check(case):
        given_parameters, targets, q, sampling, made_with = case
        ours, dense = (
            [p.clone().to(d).requires_grad_() for p in given_parameters]
            for d in (dtype, torch.float64)
        )
        torch.manual_seed(5)
        output = Output(*with_padding(*ours[1:])[:2], sampling)
        total = LOSSES[name](ours[0], output, sparse(targets, q.to(dtype)), made_with).total
        expected = dense_mean(name, dense, targets, q, sampling, made_with)
        (3 * total).backward()
        (3 * expected).backward()
        close = {"rtol": tolerance, "atol": tolerance}
        torch.testing.assert_close(total.double(), expected, **close)
        for p, p_dense in zip(ours, dense, strict=True):
            grad = torch.zeros_like(p_dense) if p_dense.grad is None else p_dense.grad
            torch.testing.assert_close(p.grad.double(), grad, **close)

    check()


@pytest.mark.parametrize("name", LOSSES)
def test_the_padding_row_gets_no_gradient(name):
    weight, bias = with_padding(torch.randn(3, 2), torch.zeros(3))[:2]
    weight.requires_grad_()
    examples = sparse(torch.tensor([2]), torch.tensor([[0.2, 0.5, 0.3]]))
    LOSSES[name](
        torch.ones(1, 2), Output(weight, bias), examples, TrainingSettings()
    ).total.backward()
    assert (weight.grad[0] == 0).all()
    assert (weight.grad[2] != 0).all()


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("target_logit", [-1e30, -1e4, -100.0, 17.0, 40.0, 100.0, 1e4, 1e30])
def test_values_and_gradients_are_finite_at_extreme_logits(name, target_logit):
    z = torch.tensor([[0.5, target_logit, -0.5]], requires_grad=True)
    examples = sparse(torch.tensor([2]), torch.tensor([[0.2, 0.5, 0.3]]))
    parts = loss_of(name, z, examples, TrainingSettings(lambda1=0.5))
    parts.total.backward()
    assert torch.isfinite(torch.stack(parts)).all()
    assert torch.isfinite(z.grad).all()


@pytest.mark.parametrize("name", sorted(LOSSES.keys() - USE_SOFT_TARGETS))
def test_losses_without_soft_targets_do_not_look_at_them(name):
    logits, targets = torch.randn(2, 5), torch.tensor([1, 4])
    totals = []
    for q in (torch.full((2, 5), 0.2), torch.eye(5)[:2]):
        torch.manual_seed(1)
        totals.append(loss_of(name, logits, sparse(targets, q), TrainingSettings()).total)
    assert totals[0] == totals[1]


@pytest.mark.parametrize("name", sorted(LOSSES.keys() - DRAW_NEGATIVES))
def test_bfloat16_products_are_close(name):
    torch.manual_seed(3)
    output = with_padding(torch.randn(50, 8), torch.randn(50))
    hidden, examples = torch.randn(6, 8), sparse(torch.arange(1, 7), torch.rand(6, 50).softmax(1))
    gradients = []
    for precision in ("float32", "bfloat16"):
        h = hidden.clone().requires_grad_()
        LOSSES[name](h, output, examples, TrainingSettings(precision=precision)).total.backward()
        gradients.append(h.grad)
    assert gradients[1].dtype == torch.float32
    torch.testing.assert_close(*gradients, rtol=0.05, atol=0.01)
    assert not torch.equal(*gradients)


def test_rows_at_once_keep_two_arrays_of_logits_within_the_budget():
    weight = torch.empty(43_000, 2)
    assert rows_at_once(weight, budget_mb=256) == 780
    assert 780 * 43_000 * 4 * 2 <= 256 * 2**20 < 781 * 43_000 * 4 * 2
    assert rows_at_once(torch.empty(10**6, 1), budget_mb=1) == 1


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="memory is read from /proc")
@pytest.mark.parametrize("name", sorted(LOSSES.keys() - DRAW_NEGATIVES))
@pytest.mark.parametrize(
    ("precision", "logit"), [("float32", 0.0), ("float32", 90.0), ("bfloat16", 90.0)]
)
def test_the_peak_keeps_within_the_budget_however_certain_the_model_is(name, precision, logit):
    num_items, budget_mb, num_examples = 100_000, 64, 120  # two chunks
    weight, bias = with_padding(torch.randn(num_items, 8), torch.zeros(num_items))[:2]
    bias[7] = logit
    shared = {"targets_N": 7, "target_masses_N": 0.5}
    examples = Examples(
        **{key: torch.full((num_examples,), value) for key, value in shared.items()},
        items_NK=torch.full((num_examples, 3), 9),
        masses_NK=torch.full((num_examples, 3), 0.1),
    )
    made_with = TrainingSettings(precision=precision, logits_budget_mb=budget_mb)
    hidden = torch.randn(num_examples, 8, requires_grad=True)
    output = Output(weight.requires_grad_(), bias)
    before = start_of_peak()
    LOSSES[name](hidden, output, examples, made_with).total.backward()
    slack_mb = 20  # gradients of the weights take 3, in two precisions
    assert own_bytes("VmHWM") - before <= (budget_mb + slack_mb) * 2**20


def test_without_a_budget_logits_take_what_the_weights_do_or_64_mib():
    assert rows_at_once(torch.empty(10**6, 128), budget_mb=0) == 64
    assert rows_at_once(torch.empty(43_000, 128), budget_mb=0) == 195


def test_negatives_are_drawn_as_often_as_expected():
    torch.manual_seed(0)
    output = with_padding(torch.zeros(3, 1), torch.zeros(3))
    output = output._replace(log_sampling_V=log_sampling(torch.tensor([9, 3, 0, 15]), 0.5))
    negatives, log_expected = draw(output, 70_000)
    counts = torch.bincount(negatives, minlength=4)
    assert counts[0] == 0
    expected = torch.zeros(4).scatter(0, negatives, log_expected.exp())
    assert expected.tolist() == pytest.approx([0, 20_000, 10_000, 40_000])
    assert counts.tolist() == pytest.approx(expected.tolist(), rel=0.05)


def test_sampled_softmax_estimates_the_other_items_without_bias():
    """exp(loss) - 1 is the drawn estimate of Σ exp(z_j - z_y)."""
    torch.manual_seed(0)
    z, y = torch.tensor([[0.3, -1.0, 2.0, 0.5, 1.0]], dtype=torch.float64), torch.tensor([4])
    examples = sparse(y, torch.full((1, 5), 0.2, dtype=torch.float64))
    output = with_padding(torch.eye(5, dtype=torch.float64), torch.zeros(5, dtype=torch.float64))
    output = output._replace(log_sampling_V=log_sampling(torch.arange(6), 1.0))
    made_with = TrainingSettings(num_negatives=20)
    draws = [LOSSES["sampled_softmax"](z, output, examples, made_with).total for _ in range(3000)]
    expected = sum(math.exp(z[0, j] - z[0, 3]) for j in (0, 1, 2, 4))
    assert torch.stack(draws).expm1().mean().item() == pytest.approx(expected, rel=0.02)


def test_decoupled_gradients_are_those_of_the_formula_where_the_target_is_certain():
    """At a target logit of 120 the other items' share underflows a float; that among them not."""
    z = torch.tensor([[0.5, 120.0, -0.5], [0.5, 1.0, -0.5]], requires_grad=True)
    examples = sparse(torch.tensor([2, 2]), torch.tensor([[0.2, 0.5, 0.3]] * 2))
    made_with = TrainingSettings(lambda1=0.0, lambda2=0.25)
    loss_of("decoupled", z, examples, made_with).total.backward()
    p_hat, q_hat = torch.tensor([0.5, -0.5]).softmax(0), torch.tensor([0.4, 0.6])
    torch.testing.assert_close(z.grad[0, [0, 2]], 0.75 / 2 * (p_hat - q_hat))
    p_y = z[1].softmax(0)[1].item()
    torch.testing.assert_close(
        z.grad[1, [0, 2]], (0.25 * (1 - p_y) * p_hat + 0.75 * (p_hat - q_hat)) / 2
    )


@pytest.mark.parametrize("target_logit", [-60.0, 12.0, 16.7, 25.0, 60.0])
def test_decoupled_is_precise_where_the_target_is_nearly_certain(target_logit):
    logits = torch.tensor([[0.5, target_logit, -0.5]])
    targets, q = torch.tensor([2]), torch.tensor([[0.2, 0.5, 0.3]])
    settings = TrainingSettings(lambda1=0.5, lambda2=0.4)
    total = loss_of("decoupled", logits, sparse(targets, q), settings).total
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
    total = loss_of("decoupled", logits, sparse(targets, q), settings).total
    torch.testing.assert_close(total, F.binary_cross_entropy(p_y, torch.ones_like(p_y)))


def test_decoupled_distribution_is_zero_without_other_items():
    logits, targets = torch.randn(2, 5), torch.tensor([1, 4])
    one_hot = Examples(targets, torch.ones(2), torch.zeros(2, 0).long(), torch.zeros(2, 0))
    assert loss_of("decoupled", logits, one_hot, TrainingSettings()).distribution == 0


def test_decoupled_ignores_the_order_and_scale_of_the_other_masses():
    logits, targets = torch.randn(1, 5, dtype=torch.float64), torch.tensor([2])
    masses = torch.tensor([[0.1, 0.3]], dtype=torch.float64)
    own = torch.tensor([0.5], dtype=torch.float64)
    first = Examples(targets, own, torch.tensor([[1, 4]]), masses)
    second = Examples(targets, own, torch.tensor([[4, 1]]), masses.flip(1) * 2)
    totals = [loss_of("decoupled", logits, e, TrainingSettings()).total for e in (first, second)]
    torch.testing.assert_close(totals[0], totals[1])


def test_decoupled_handles_a_catalogue_of_one_item():
    z = torch.zeros(1, 1, requires_grad=True)
    examples = sparse(torch.tensor([1]), torch.tensor([[1.0]]))
    total = loss_of("decoupled", z, examples, TrainingSettings()).total
    total.backward()
    assert torch.isfinite(total)
    assert torch.isfinite(z.grad).all()
