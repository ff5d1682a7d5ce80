import pytest
import torch

from trainer.dropout import Dropout


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_elements_are_zero_with_the_probability_and_scaled_otherwise(p):
    torch.manual_seed(0)
    found = Dropout(p)(torch.full((100, 1003), 2.0))
    assert (found == 0).float().mean().item() == pytest.approx(p, abs=0.005)
    kept = found[found != 0]
    assert torch.allclose(kept, torch.tensor(2 / (1 - p)), rtol=2e-4)
    assert found.mean().item() == pytest.approx(2, rel=0.03)


def test_every_place_of_four_is_dropped_alike():
    torch.manual_seed(1)
    is_zero = Dropout(0.3)(torch.ones(40_000)) == 0
    shares = is_zero.view(-1, 4).float().mean(0)
    assert shares.tolist() == pytest.approx([0.3] * 4, abs=0.02)
    together = (is_zero.view(-1, 4)[:, 0] & is_zero.view(-1, 4)[:, 1]).float().mean().item()
    assert together == pytest.approx(0.09, abs=0.015)


def test_gradients_go_where_values_do():
    values = torch.ones(9, 7, requires_grad=True)
    found = Dropout(0.4)(values)
    found.sum().backward()
    assert torch.equal(values.grad, found.detach())


def test_the_same_seed_drops_the_same():
    draws = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        draws.append(Dropout(0.5)(torch.ones(50)))
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_nothing_is_dropped_in_evaluation_or_with_probability_zero():
    values = torch.randn(5)
    assert Dropout(0.5).eval()(values) is values
    assert Dropout(0.0)(values) is values


@pytest.mark.parametrize("shape", [(0, 4), (1,), (3, 5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_shape_and_type_stay(shape, dtype):
    found = Dropout(0.5)(torch.ones(shape, dtype=dtype))
    assert (found.shape, found.dtype) == (shape, dtype)
