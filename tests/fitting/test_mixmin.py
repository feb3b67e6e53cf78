"""Entropic descent on mixtures of probabilities: known optima, and the published code's number."""

import pytest
import torch

from mixalign.fitting.mixmin import certainty, descend, held_out, mixture_loss


def problem(probabilities, lengths=None):
    """Log-probabilities (K, N), and what each row counts: 1 / (N length)."""
    logp_KN = torch.tensor(probabilities, dtype=torch.float64).log()
    length_N = torch.ones(logp_KN.shape[1]) if lengths is None else torch.tensor(lengths)
    return logp_KN, 1 / (logp_KN.shape[1] * length_N.double())


def noise(num_sources, num_rows, spread, length):
    rng = torch.Generator().manual_seed(0)
    logp_KN = -length + spread * torch.randn(num_sources, num_rows, generator=rng, dtype=torch.float64)
    return logp_KN, torch.full((num_rows,), 1 / (num_rows * length), dtype=torch.float64)


def test_the_published_codes_number():
    """Anvith-Thudi/MixMin at 7212abe, LLM_DataMixing/mixmin_gen.py: 100 of its steps of rate 1, run in float64."""
    logp_KN = torch.tensor([[-4, -6, -9, -3, -7], [-8, -5, -3, -6, -6], [-5, -9, -8, -7, -4]], dtype=torch.float64)
    scale_N = 1 / (5 * torch.tensor([4, 5, 3, 6, 4], dtype=torch.float64))
    found = descend(logp_KN, scale_N, lr=1.0, steps=100, tol=0.0)
    published = [0.3514698301093675, 0.4706492399116694, 0.17788092997896318]
    assert found.weight_K.tolist() == pytest.approx(published, abs=1e-10)
    assert found.loss == pytest.approx(1.1128377518253223, abs=1e-10)
    assert found.steps == 100


def test_an_optimum_between_two_sources():
    """-(log(.3 + .5 w) + log(.7 - .5 w)) / 2 is lowest where both are .5: w = .4."""
    found = descend(*problem([[0.8, 0.2], [0.3, 0.7]]), tol=1e-10)
    assert found.weight_K.tolist() == pytest.approx([0.4, 0.6], abs=1e-5)
    assert found.loss == pytest.approx(-torch.tensor(0.5).log().item())


def test_rows_of_one_source_each_give_the_shares_of_the_rows():
    logp_KN, scale_N = problem([[0.9, 0.9, 0.9, 1e-30], [1e-30, 1e-30, 1e-30, 0.9]])
    found = descend(logp_KN, scale_N)
    assert found.weight_K.tolist() == pytest.approx([0.75, 0.25], abs=1e-4)
    assert certainty(found.weight_K, logp_KN, scale_N) == pytest.approx(1)


def test_a_row_of_many_tokens_counts_less():
    """Rows of 1 and 3 tokens count 3 : 1."""
    found = descend(*problem([[0.9, 1e-30], [1e-30, 0.9]], [1.0, 3.0]))
    assert found.weight_K.tolist() == pytest.approx([0.75, 0.25], abs=1e-4)


def test_a_source_that_is_worse_everywhere_has_no_weight():
    found = descend(*problem([[0.5, 0.4], [0.4, 0.5], [0.1, 0.1]]), tol=1e-10)
    assert found.weight_K.tolist() == pytest.approx([0.5, 0.5, 0], abs=1e-4)


def test_the_gap_bounds_what_is_left_to_gain():
    logp_KN, scale_N = noise(5, 300, spread=2, length=10)
    best = descend(logp_KN, scale_N, tol=1e-8)
    for steps in (0, 1, 3, 10, 30):
        found = descend(logp_KN, scale_N, steps=steps)
        assert found.steps <= steps
        assert -1e-8 <= found.loss - best.loss <= found.gap + 1e-8
        assert found.loss == pytest.approx(float(mixture_loss(found.weight_K, logp_KN, scale_N)), abs=1e-12)


def test_long_rows_are_fitted_too_where_the_published_rate_stays_at_the_start():
    logp_KN, scale_N = noise(2, 200, spread=1, length=50_000)
    logp_KN[0] += 3
    published = descend(logp_KN, scale_N, lr=1.0, steps=100, tol=0.0)
    found = descend(logp_KN, scale_N, tol=1e-12)
    assert published.weight_K[0] < 0.51
    assert found.weight_K[0] > 0.9
    assert found.loss < published.loss


def test_a_rate_that_is_too_large_is_halved():
    found = descend(*problem([[0.8, 0.2], [0.3, 0.7]]), lr=1000.0, tol=1e-10)
    assert found.weight_K.tolist() == pytest.approx([0.4, 0.6], abs=1e-5)


def test_the_order_of_the_sources_does_not_matter():
    logp_KN, scale_N = noise(4, 100, spread=2, length=10)
    order = torch.tensor([2, 0, 3, 1])
    a, b = descend(logp_KN, scale_N), descend(logp_KN[order], scale_N)
    assert b.weight_K.tolist() == pytest.approx(a.weight_K[order].tolist(), abs=1e-12)


def test_held_out_rows_are_fitted_worse_than_their_own_weights_fit_them():
    logp_KN, scale_N = noise(4, 40, spread=3, length=10)
    own = descend(logp_KN, scale_N)
    assert held_out(logp_KN, scale_N) > own.loss
    same_KN, same_N = logp_KN[:, :1].expand(-1, 10), scale_N[:10]
    assert held_out(same_KN, same_N) == pytest.approx(descend(same_KN, same_N).loss, abs=1e-5)
