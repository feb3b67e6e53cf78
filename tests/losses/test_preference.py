"""Preference losses: worked numbers, TRL's own code on the same numbers, and what each of them promises.

The worked pair has the ratios c = 0.5 and d = -0.5 (means) or c = 1 and d = -1 (sums), so that with beta 0.5 h = 1 for
sums and 0.5 for means; sigmoid(1) = 0.731059, -log of it 0.313262, -log sigmoid(-1) = 1.313262.
"""

from math import e, exp, log
from types import SimpleNamespace

import pytest
import torch

from mixalign.losses.preference import LOSSES, PairSettings

NAMES = list(LOSSES)
SMOOTHED = [name for name, loss in LOSSES.items() if loss.smooths]
SUMS, MEANS = [[1.0, -1.0]], [[0.5, -0.5]]


def settings(beta=1.0, smoothing=0.0, gamma=0.0) -> PairSettings:
    return PairSettings(*(torch.as_tensor(x, dtype=torch.float64).reshape(-1) for x in (beta, smoothing, gamma)))


def loss(name, ratio_BS, **at):
    return LOSSES[name].of(torch.as_tensor(ratio_BS, dtype=torch.float64), settings(**at))


def sigma(x):
    return 1 / (1 + exp(-x))


WORKED = {
    "sigmoid": ("sigmoid", SUMS, {}, 0.313262),
    "sigmoid, a tenth swapped": ("sigmoid", SUMS, {"smoothing": 0.1}, 0.9 * 0.313262 + 0.1 * 1.313262),  # 0.413262
    "robust, a tenth swapped": ("robust", SUMS, {"smoothing": 0.1}, (0.9 * 0.313262 - 0.1 * 1.313262) / 0.8),  # .188262
    "robust, none swapped": ("robust", SUMS, {}, 0.313262),
    "hinge": ("hinge", [[1.0, 0.0]], {}, 0.5),  # h = 0.5: half of the margin is missing
    "hinge, met": ("hinge", [[3.0, -1.0]], {}, 0.0),
    "ipo": ("ipo", MEANS, {}, 0.0),  # the aim is 1 / (2 beta) = 1, which is c - d
    "ipo at the reference": ("ipo", [[0.0, 0.0]], {"beta": 0.1}, 25.0),
    "sigmoid_norm": ("sigmoid_norm", MEANS, {}, log(1 + exp(-0.5))),  # 0.474077
    "apo_zero": ("apo_zero", SUMS, {}, 2 * sigma(-0.5)),  # 1 - sigmoid(0.5) + sigmoid(-0.5) = 0.755081
    "apo_down": ("apo_down", SUMS, {}, sigma(0.5) + 1 - sigma(1)),  # 0.891401
    "simpo": ("simpo", [[-1.0, -2.0]], {"beta": 2.0, "gamma": 1.0}, 0.313262),  # 2 * (2 - 1) - 1 = 1
    "simpo, a tenth swapped": ("simpo", [[-1.0, -2.0]], {"beta": 2.0, "gamma": 1.0, "smoothing": 0.1}, 0.413262),
    # probabilities 1/2 and 1/4: odds 1 and 1/3, their ratio 3, and sigmoid(log 3) = 3/4
    "orpo": ("orpo", [[log(1 / 2), log(1 / 4)]], {"beta": 0.1}, log(2) + 0.1 * log(4 / 3)),
}


@pytest.mark.parametrize("case", WORKED)
def test_worked_number(case):
    name, ratio_BS, at, wanted = WORKED[case]
    assert loss(name, ratio_BS, **{"beta": 0.5} | at).item() == pytest.approx(wanted, abs=2e-6)


def test_every_loss_has_a_worked_number():
    assert {case[0] for case in WORKED.values()} == {*LOSSES}


# TRL 1.16: `cpo_loss` of its CPOTrainer, which knows no reference, and `odds_ratio_loss` of its ORPOTrainer
CPO = {  # our name: TRL's
    "simpo": "simpo",
    "sigmoid": "sigmoid",
    "hinge": "hinge",
    "ipo": "ipo",
    "sigmoid_norm": "sigmoid",
}


def random_logp(rows=64):
    """Mean log-probabilities of 64 pairs, from almost certain to hopeless."""
    generator = torch.Generator().manual_seed(0)
    logp_BS = -torch.empty(rows, 2, dtype=torch.float64).exponential_(0.7, generator=generator)
    logp_BS[0] = torch.tensor([-1e-3, -20.0])
    return logp_BS


def gradient(loss_B, x_BS):
    return torch.autograd.grad(loss_B.sum(), x_BS)[0]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("name", CPO)
def test_values_and_gradients_are_those_of_trls_cpo_trainer(name, smoothing):
    cpo = pytest.importorskip("trl.experimental.cpo", reason="needs the extra `trl`")
    logp_BS = random_logp().requires_grad_()
    trainer = SimpleNamespace(loss_type=CPO[name], beta=2.0, simpo_gamma=0.7, label_smoothing=smoothing, alpha=0.0)
    trainer.accelerator = SimpleNamespace(device="cpu")
    wanted_B = cpo.CPOTrainer.cpo_loss(trainer, logp_BS[:, 0], logp_BS[:, 1])[0]
    smoothing = smoothing if LOSSES[name].smooths else 0.0  # TRL warns and ignores it, the objective refuses it
    found_B = LOSSES[name].of(logp_BS, settings(2.0, smoothing, 0.7))
    torch.testing.assert_close(found_B, wanted_B, rtol=1e-5, atol=1e-9)
    torch.testing.assert_close(gradient(found_B, logp_BS), gradient(wanted_B, logp_BS), rtol=1e-5, atol=1e-9)


@pytest.mark.filterwarnings("ignore")
def test_orpo_is_that_of_trls_orpo_trainer_and_the_nll():
    orpo = pytest.importorskip("trl.experimental.orpo", reason="needs the extra `trl`")
    logp_BS = random_logp().requires_grad_()
    trainer = SimpleNamespace(beta=0.3, accelerator=SimpleNamespace(device="cpu"))
    wanted_B = -logp_BS[:, 0] - orpo.ORPOTrainer.odds_ratio_loss(trainer, logp_BS[:, 0], logp_BS[:, 1])[0]
    found_B = LOSSES["orpo"].of(logp_BS, settings(0.3))
    torch.testing.assert_close(found_B, wanted_B.double(), rtol=1e-5, atol=1e-6)  # TRL goes to float32
    torch.testing.assert_close(gradient(found_B, logp_BS), gradient(wanted_B, logp_BS), rtol=1e-5, atol=1e-5)


def test_orpo_is_the_papers_formula():
    beta, logp_BS = 0.3, random_logp()
    wanted = []
    for c, d in logp_BS.exp().tolist():
        ratio = (c / (1 - c)) / (d / (1 - d))
        wanted.append(-log(c) - beta * log(sigma(log(ratio))))
    assert loss("orpo", logp_BS, beta=beta).tolist() == pytest.approx(wanted, rel=1e-9)


def test_robust_is_unbiased_under_swapped_labels():
    """With a share s of the pairs swapped, its mean is the plain loss of the right labels (arXiv 2403.00409)."""
    right_BS = random_logp()
    seen = 0.7 * loss("robust", right_BS, smoothing=0.3) + 0.3 * loss("robust", right_BS.flip(1), smoothing=0.3)
    torch.testing.assert_close(seen, loss("sigmoid", right_BS))


@pytest.mark.parametrize("name", ["sigmoid", "sigmoid_norm", "simpo"])
def test_label_smoothing_is_the_mean_of_both_labels(name):
    ratio_BS = random_logp()
    mixed_B = 0.9 * loss(name, ratio_BS) + 0.1 * loss(name, ratio_BS.flip(1))
    torch.testing.assert_close(loss(name, ratio_BS, smoothing=0.1), mixed_B)


@pytest.mark.parametrize("beta", [0.1, 9.0])
@pytest.mark.parametrize("smoothing", [0.0, 0.3, 0.49])
@pytest.mark.parametrize("name", SMOOTHED)
def test_at_the_reference_it_is_log_2(name, smoothing, beta):
    assert loss(name, [[0.0, 0.0]], beta=beta, smoothing=smoothing).item() == pytest.approx(log(2), abs=1e-12)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_gradient_vanishes_where_the_margin_says_as_much_as_the_labels(smoothing):
    """d/dh is sigmoid(h) - (1 - s)."""
    ratio_BS = torch.tensor([[-3.0, 0.0], [0.0, 0.0], [0.0, -1.0], [2.0, -2.0]], dtype=torch.float64).requires_grad_()
    found = gradient(loss("sigmoid", ratio_BS, beta=0.5, smoothing=smoothing), ratio_BS)
    wanted = [0.5 * (sigma(0.5 * r) - (1 - smoothing)) for r in (-3, 0, 1, 4)]
    assert found[:, 0].tolist() == pytest.approx(wanted, abs=1e-12)
    assert found[:, 1].tolist() == pytest.approx([-w for w in wanted], abs=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_settings_are_those_of_each_sample(name):
    """Tasks may differ in beta, smoothing and gamma; a batch holds several tasks."""
    at = [(0.1, 0.0, 0.5), (0.5, 0.0, 0.5), (0.5, 0.4, 1.5)]
    ratio_BS = torch.tensor([[-1.0, -2.0]] * 3, dtype=torch.float64)
    found_B = LOSSES[name].of(ratio_BS, PairSettings(*torch.tensor(at, dtype=torch.float64).T))
    wanted = [loss(name, ratio_BS[:1], beta=b, smoothing=s, gamma=g).item() for b, s, g in at]
    assert found_B.tolist() == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_extreme_ratios_stay_finite(name):
    """Every loss meets the pairs of all tasks of a batch, sums and log ratios above 0 among them."""
    ratio_BS = torch.tensor(
        [[-1e4, 0.0], [1e4, -1e4], [0.0, 0.0], [-1e-12, -1e4]], dtype=torch.float64
    ).requires_grad_()
    found_B = loss(name, ratio_BS, smoothing=0.1)
    assert found_B.isfinite().all()
    assert gradient(found_B, ratio_BS).isfinite().all()


def test_extreme_margins_cost_what_they_should():
    assert loss("sigmoid", [[-1e4, 0.0], [1e4, 0.0]], smoothing=0.1).tolist() == pytest.approx([9000, 1000])
    assert loss("sigmoid", [[0.0, 0.0]], beta=e).item() == pytest.approx(log(2))
