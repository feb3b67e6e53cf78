"""The formulas, with numbers that a reader can check."""

import math

import pytest
import torch

from mixalign.errors import MixalignError
from mixalign.merging.formulas import (
    dare_linear,
    dare_ties,
    drop_and_rescale,
    keep_largest,
    least_kept,
    linear,
    slerp,
    task_arithmetic,
    ties,
)
from mixalign.merging.methods import METHODS, Merge

HALF = torch.tensor([0.5, 0.5])
ONES = torch.tensor([1.0, 1.0])


def test_linear_is_the_weighted_mean():
    """(1 * [2, 0] + 3 * [4, 8]) / 4."""
    theta_M = torch.tensor([[2.0, 0.0], [4.0, 8.0]])
    assert linear(theta_M, torch.tensor([1.0, 3.0])).tolist() == [3.5, 6.0]


def test_task_arithmetic_sums_and_divides_only_when_asked():
    tau_M = torch.tensor([[1.0, -2.0], [3.0, 2.0]])
    assert task_arithmetic(tau_M, ONES).tolist() == [4.0, 0.0]
    assert task_arithmetic(tau_M, ONES, normalise=True).tolist() == [2.0, 0.0]
    assert task_arithmetic(tau_M, torch.tensor([1.0, -1.0])).tolist() == [-2.0, -4.0]  # forgets the second


def test_the_uniform_soup_is_task_arithmetic_with_lambda_1():
    base, theta_M = torch.randn(4, 3), torch.randn(5, 4, 3)
    weight_M = torch.full((5,), 1 / 5)
    soup = base + task_arithmetic(theta_M - base, weight_M)
    torch.testing.assert_close(soup, linear(theta_M, weight_M), atol=1e-6, rtol=0)


class TestTies:
    """Two task vectors of four entries, half of which are kept: [4, -3, ., .] and [-1, ., ., 2]."""

    tau_M = torch.tensor([[4.0, -3.0, 1.0, 0.5], [-1.0, 0.2, 0.1, 2.0]])

    def test_by_hand(self):
        """Signs: + (4 > 1), -, none, +; of entry 0 the second model disagrees and does not count in the mean."""
        assert ties(self.tau_M, HALF, density=0.5).tolist() == [4.0, -3.0, 0.0, 2.0]

    def test_models_that_agree_are_averaged_by_weight(self):
        """(1 * 2 + 3 * 6) / 4 = 5."""
        tau_M = torch.tensor([[2.0], [6.0]])
        assert ties(tau_M, torch.tensor([1.0, 3.0]), density=1).tolist() == [5.0]
        assert ties(tau_M, torch.tensor([1.0, 3.0]), density=1, normalise=False).tolist() == [20.0]

    def test_weights_elect(self):
        """1 * 4 - 5 * 1 is negative, so that the second model's -1 stands."""
        assert ties(torch.tensor([[4.0], [-1.0]]), torch.tensor([1.0, 5.0]), density=1).tolist() == [-1.0]

    def test_an_even_vote_moves_nothing(self):
        assert ties(torch.tensor([[2.0], [-2.0]]), HALF, density=1).tolist() == [0.0]

    def test_thresholds_of_the_whole_model_replace_the_share(self):
        assert ties(self.tau_M, HALF, density=1, threshold_M=[3.5, 1.5]).tolist() == [4.0, 0.0, 0.0, 2.0]


@pytest.mark.parametrize(
    ("density", "kept"), [(0.01, [0, 0, 5, 0]), (0.5, [0, -2, 5, 0]), (0.75, [1, -2, 5, 0]), (1, [1, -2, 5, 0.5])]
)
def test_the_largest_magnitudes_are_kept_at_least_one(density, kept):
    assert keep_largest(torch.tensor([1.0, -2.0, 5.0, 0.5]), density).tolist() == kept


@pytest.mark.parametrize("density", [0.0001, 0.1, 0.37, 0.5, 0.99, 1])
@pytest.mark.parametrize("spread", [1.0, 1e-6])
def test_the_least_kept_magnitude_of_several_tensors_is_that_of_all_together(density, spread):
    parts = [torch.randn(40, 30) * spread, torch.randn(7), torch.zeros(50), torch.randn(3, 5, 2) * 100]
    whole = torch.cat([part.flatten() for part in parts]).abs().sort(descending=True).values
    wanted = whole[max(1, int(density * len(whole))) - 1]
    assert least_kept(lambda: parts, density) == wanted


class TestDare:
    tau = torch.arange(1.0, 9.0).view(2, 4)

    def test_kept_entries_are_divided_by_the_density(self):
        kept = drop_and_rescale(self.tau, 0.25, seed=1)
        assert set(kept.flatten().tolist()) <= {0.0, *(4 * self.tau).flatten().tolist()}

    def test_its_expectation_is_the_task_vector(self):
        """The mean of n masks has a standard error of tau sqrt((1-p)/p/n): 0.017 tau here."""
        mean = torch.stack([drop_and_rescale(self.tau, 0.25, seed) for seed in range(10_000)]).mean(0)
        torch.testing.assert_close(mean, self.tau, rtol=0.08, atol=0)

    def test_l1_restores_the_norm(self):
        kept = drop_and_rescale(self.tau, 0.5, seed=0, rescale="l1")
        assert kept.abs().sum() == pytest.approx(float(self.tau.abs().sum()))
        assert (kept == 0).any()

    def test_none_leaves_the_kept_entries_alone(self):
        kept = drop_and_rescale(self.tau, 0.5, seed=0, rescale="none")
        assert torch.equal(kept, self.tau.where(kept != 0, 0.0))

    def test_the_seed_decides_the_mask(self):
        x, y, z = (drop_and_rescale(torch.ones(99), 0.5, seed) for seed in (0, 0, 1))
        assert torch.equal(x, y)
        assert not torch.equal(x, z)

    def test_then_linear_or_ties(self):
        tau_M, how = torch.randn(2, 50), {"density": 0.5, "seed_M": [3, 4]}
        kept_M = torch.stack([drop_and_rescale(tau, 0.5, seed) for tau, seed in zip(tau_M, (3, 4), strict=True)])
        assert torch.equal(dare_linear(tau_M, HALF, **how), task_arithmetic(kept_M, HALF))
        assert torch.equal(dare_ties(tau_M, HALF, **how), ties(kept_M, HALF, density=1))

    def test_a_mask_belongs_to_a_model_and_a_parameter(self):
        how = Merge("dare_linear", density=0.5)
        x_M = torch.ones(2, 64)
        masks = [how.apply(x_M[:, :], torch.tensor(w), n) for w in ([1.0, 0.0], [0.0, 1.0]) for n in ("a", "b")]
        assert len({tuple(mask.tolist()) for mask in masks}) == 4


class TestSlerp:
    def test_half_way_between_right_angles_keeps_the_norm(self):
        """sin 45 / sin 90 = 0.7071 of each."""
        theta_M = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        torch.testing.assert_close(slerp(theta_M, HALF), torch.tensor([0.5, 0.5]) * math.sqrt(2))

    def test_a_third_of_the_way_is_30_of_90_degrees(self):
        theta_M = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        wanted = torch.tensor([math.cos(math.pi / 6), math.sin(math.pi / 6)])
        torch.testing.assert_close(slerp(theta_M, torch.tensor([2.0, 1.0])), wanted)

    @pytest.mark.parametrize(("weight_M", "which"), [((1.0, 0.0), 0), ((0.0, 1.0), 1)])
    def test_its_ends_are_the_models(self, weight_M, which):
        theta_M = torch.randn(2, 3, 4)
        torch.testing.assert_close(slerp(theta_M, torch.tensor(weight_M)), theta_M[which])

    @pytest.mark.parametrize("second", [[2.0, 2.00001], [-2.0, -2.0], [0.0, 0.0]])
    def test_parallel_opposite_and_zero_tensors_are_interpolated(self, second):
        theta_M = torch.tensor([[1.0, 1.0], second])
        assert torch.equal(slerp(theta_M, HALF), theta_M.mean(0))

    def test_a_scalar_is_a_tensor_too(self):
        assert slerp(torch.tensor([1.0, 3.0]), HALF).item() == 2.0


def test_every_method_gives_the_model_itself_when_there_is_one():
    """DARE with density 1 drops nothing."""
    tau_M = torch.randn(1, 4, 3)
    for name in METHODS.keys() - {"slerp"}:
        how = Merge(name, density=1)
        torch.testing.assert_close(how.apply(tau_M, how.weight_M(1), "p"), tau_M[0])


@pytest.mark.parametrize(
    ("settings", "models", "says"),
    [
        ({"method": "tie"}, 2, "`merge.method` is 'tie'. Did you mean `ties`?"),
        ({"method": "slerp"}, 3, "exactly 2 models, but got 3"),
        ({"weights": (1, 2)}, 3, "2 weights for 3 models"),
        ({"weights": (1, -1)}, 2, "1, -1, but must be at least 0"),
        ({"weights": (0, 0)}, 2, "not all 0"),
        ({"method": "task_arithmetic", "weights": (1, math.nan)}, 2, "`merge.weights[1]` is nan, but must be a number"),
        ({"density": 0}, 2, "`merge.density` is 0, but must be a number from 0 to 1, but not 0. It is the share"),
        ({"scale": 2.0}, 2, "`linear` has no scale"),
        ({"normalise": False}, 2, "`linear` always divides by the weights"),
        ({"method": "ties", "scale": math.inf}, 2, "`merge.scale` is inf, but must be a number"),
        ({"trim": "global"}, 2, "`merge.trim` is 'global'. Known: model, tensor"),
        ({"rescale": "l2"}, 2, "Known: density, l1, none"),
        ({}, 0, "no model to merge"),
    ],
)
def test_what_cannot_be_merged_is_refused(settings, models, says):
    with pytest.raises(MixalignError) as caught:
        Merge(**settings).weight_M(models)
    assert says in str(caught.value)
