"""Random slopes against second derivatives."""

import pytest
import torch
import torch.nn.functional as F

from mixalign.losses.curvature import draw_slopes
from mixalign.losses.preference import LOSSES, PairSettings

DRAWS = 20_000


def moment(loss, x, draws=DRAWS):
    """Mean of s s' over draws at one point."""
    x_BS = torch.tensor([x] * draws, dtype=torch.float64)
    slope_BS = draw_slopes(loss, x_BS, torch.Generator().manual_seed(0))
    return slope_BS.t() @ slope_BS / draws, slope_BS


def second_derivative(loss, x):
    return torch.autograd.functional.hessian(lambda x_S: loss(x_S[None])[0], torch.tensor(x, dtype=torch.float64))


def test_one_number():
    """log(1 + e^-x) at 1 bends by p (1 - p) with p = 0.731059: slopes are +-sqrt(0.196612) = +-0.443409."""
    found, slope_BS = moment(lambda x_BS: -F.logsigmoid(x_BS[:, 0]), [1.0])
    assert sorted(set(slope_BS[:, 0].tolist())) == pytest.approx([-0.443409, 0.443409], rel=1e-5)
    assert found.item() == pytest.approx(0.196612, rel=1e-5)


def test_a_loss_of_two_numbers():
    def loss(x_BS):
        return (x_BS[:, 0] - 2 * x_BS[:, 1]) ** 2 + x_BS[:, 1].exp() + 5 * x_BS[:, 0]

    found, _ = moment(loss, [0.3, -0.2])
    torch.testing.assert_close(found, second_derivative(loss, [0.3, -0.2]), rtol=0.03, atol=0.05)


def test_hollows_are_left_out():
    """x^2 - y^2 bends by 2 along x, and by -2 along y."""
    found, _ = moment(lambda x_BS: x_BS[:, 0] ** 2 - x_BS[:, 1] ** 2, [0.0, 0.0])
    assert found.tolist() == [[pytest.approx(2.0), 0.0], [0.0, 0.0]]


def test_straight_lines_have_none():
    for loss in (lambda x_BS: x_BS.sum(1), lambda x_BS: F.relu(1 - x_BS[:, 0])):
        assert moment(loss, [0.5, 2.0], draws=10)[1].abs().max() == 0


def test_each_sample_has_its_own():
    x_BS = torch.tensor([[0.0], [1.0], [-3.0]], dtype=torch.float64)
    slope_BS = draw_slopes(lambda x_BS: torch.tensor([1.0, 2.0, 3.0]) * x_BS[:, 0] ** 2, x_BS, torch.Generator())
    assert slope_BS.abs()[:, 0].tolist() == pytest.approx([2**0.5, 2, 6**0.5])


@pytest.mark.parametrize("name", LOSSES)
def test_preference_losses(name):
    """The second derivative by both ratios, less its hollows."""
    one = torch.tensor([0.8]), torch.tensor([0.1]), torch.tensor([0.5])

    def loss(x_BS):
        return LOSSES[name].of(x_BS, PairSettings(*one))

    x = [-0.4, -1.5]
    found, _ = moment(loss, x)
    value, vector = torch.linalg.eigh(second_derivative(loss, x))
    torch.testing.assert_close(found, vector @ value.clamp_min(0).diag() @ vector.t(), rtol=0.03, atol=0.01)
    assert (found.abs().max() > 0) == LOSSES[name].is_curved
    if name in ("sigmoid", "robust", "ipo", "sigmoid_norm", "simpo"):
        assert float(value[0]) == pytest.approx(0, abs=1e-9)  # only the margin counts, and every margin bends
