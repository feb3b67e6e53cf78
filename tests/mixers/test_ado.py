"""ADO (arXiv 2410.11820): its policy, the power laws behind it, and the curves that they are fitted to."""

from dataclasses import replace

import pytest
import torch

from mixalign.errors import MixalignError
from mixalign.mixers.ado import ADO, POINTS
from mixalign.mixers.base import MixSignal
from mixalign.mixers.power_law import PowerLaw, fit

NAN = float("nan")
SAMPLES = torch.arange(1, 65, dtype=torch.float64) * 320


def vector(*values):
    return torch.tensor(values, dtype=torch.float64)


def curve(e, a, alpha, samples=SAMPLES):
    """Loss of one task on its law, (W,)."""
    return vector(e).exp() + vector(a).exp() / samples**alpha


def random_laws(num_tasks):
    """Laws of DPO's range: .1 to 1.1 nats now, of which 10 to 90 % can still be learned."""
    now_K, share_K, alpha_K = torch.rand(3, num_tasks, generator=torch.Generator().manual_seed(0)).double()
    now_K, share_K, alpha_K = now_K + 0.1, 0.8 * share_K + 0.1, 0.6 * alpha_K + 0.15
    return PowerLaw((now_K * (1 - share_K)).log(), (now_K * share_K).log() + alpha_K * SAMPLES[-1].log(), alpha_K)


def curves(law):
    """Losses of all tasks at SAMPLES, (K, W)."""
    return law.e_K.exp()[:, None] + law.a_K.exp()[:, None] / SAMPLES ** law.alpha_K[:, None]


def huber(law, loss_KW, delta=1e-3):
    error_KW = (curves(law).log() - loss_KW.log()).abs()
    return torch.where(error_KW > delta, delta * (error_KW - delta / 2), error_KW**2 / 2).sum(1)


def play(mixer, losses, rows=None, counts=None):
    """The last mixture and state after one update a row of mean losses."""
    mix, state = mixer.init(torch.ones(len(losses[0])) if rows is None else rows)
    for step, loss in enumerate(losses):
        count_K = torch.full((len(loss),), 10.0) if counts is None else torch.tensor(counts[step])
        mix, state = mixer.update(MixSignal(step, count_K, loss_K=torch.as_tensor(loss, dtype=torch.float64)), state)
    return mix, state


# --- policy -------------------------------------------------------------------------------------------------------

PUBLISHED = [  # yidingjiang/ado at bc3d8d0, src/data_selectors/ado.py: AdoSelector.update and .curr_dist
    [0.1, 0.3, 0.4, 0.2],
    [0.1, 0.3, 0.4, 0.2],
    [0.10404673513698558, 0.3259137166959367, 0.3890494301343841, 0.18099011803269371],
    [0.11668329058179824, 0.40656739692756194, 0.3527888392903407, 0.12396047320029921],
    [0.12308255494122498, 0.45373553890722196, 0.3277362523229054, 0.09544565382864784],
]


def test_the_policy_is_the_published_codes():
    """Given laws, priors and counts; the second exponent is below .05, and the last law's speed below the floor."""
    mixer = ADO(every=10**9, warmup=2)
    mix, state = mixer.init(vector(1000, 3000, 4000, 2000))
    state |= {"a_K": vector(0.5, 1.0, -0.3, -9.0), "e_K": vector(-1.2, -0.4, -3.0, -0.7)}
    state |= {"alpha_K": vector(0.3, 0.02, 0.6, 0.1), "fitted_K": torch.ones(4).double()}
    counts = [[5, 0, 7, 4], [2, 6, 8, 0], [1, 9, 3, 3], [4, 4, 4, 4], [0, 2, 10, 4]]
    for step, (count, wanted) in enumerate(zip(counts, PUBLISHED, strict=True)):
        mix, state = mixer.update(MixSignal(step, torch.tensor(count), loss_K=torch.ones(4)), state)
        assert mix.sample_K.tolist() == pytest.approx(wanted, abs=1e-10)
    assert state["history_K"].tolist() == pytest.approx([0.116227125, 0.285047, 0.401537875, 0.197188], abs=1e-10)


def test_a_task_without_a_law_has_the_mean_speed_of_the_others():
    """Equal priors and histories: speeds 3 : 1 and the mean of both."""
    mixer = ADO(every=10**9, warmup=0, prior="uniform", gamma1=0.0, gamma2=1.0, floor=0.0)
    _, state = mixer.init(torch.ones(3))
    state |= {"a_K": vector(3, 1, 99).log(), "alpha_K": vector(0.5, 0.5, 0.5), "fitted_K": vector(1, 1, 0)}
    mix, _ = mixer.update(MixSignal(0, torch.ones(3), loss_K=torch.ones(3)), state)
    assert mix.sample_K.tolist() == pytest.approx([3 / 6, 1 / 6, 2 / 6])


def test_with_more_tasks_than_floors_fit_the_floor_is_an_equal_share():
    mixer = ADO(every=10**9, warmup=0, prior="uniform", gamma2=1.0)
    _, state = mixer.init(torch.ones(1000))
    state |= {"a_K": torch.linspace(-30, 0, 1000).double(), "alpha_K": torch.full((1000,), 0.5).double()}
    mix, _ = mixer.update(
        MixSignal(0, torch.ones(1000), loss_K=torch.ones(1000)), state | {"fitted_K": torch.ones(1000)}
    )
    assert mix.sample_K.min() > 0.5 / 1000
    assert mix.sample_K.max() > 5 / 1000


# --- power laws ---------------------------------------------------------------------------------------------------


def test_exact_curves_give_back_their_laws():
    law, found = random_laws(100), fit(SAMPLES, curves(random_laws(100)))
    for name in ("e_K", "a_K", "alpha_K"):
        torch.testing.assert_close(getattr(found, name), getattr(law, name), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("noise", [0.01, 0.1])
def test_noisy_curves_are_fitted_at_least_as_well_as_by_their_laws(noise):
    law = random_laws(100)
    rng = torch.Generator().manual_seed(1)
    loss_KW = curves(law) * (noise * torch.randn(100, 64, generator=rng).double()).exp()
    found = fit(SAMPLES, loss_KW)
    assert (huber(found, loss_KW) <= huber(law, loss_KW) * 1.01).all()
    speed_K, true_K = (x.alpha_K * x.reducible(SAMPLES[-1]) for x in (found, law))
    assert float((speed_K / true_K - 1).abs().median()) < 2 * noise


def test_a_few_wild_points_do_not_move_the_fit():
    """Three of 64 are ten times too high. By squares, half of the speeds would be off by more than 15 %."""
    law = random_laws(100)
    loss_KW = curves(law)
    loss_KW[:, 7::20] *= 10
    found = fit(SAMPLES, loss_KW)
    speed_K, true_K = (x.alpha_K * x.reducible(SAMPLES[-1]) for x in (found, law))
    assert float((speed_K / true_K - 1).abs().median()) < 0.002


@pytest.mark.parametrize("unit", [1e-6, 1e6])
def test_the_fit_has_no_unit_of_loss_or_samples(unit):
    plain, found = fit(SAMPLES, curves(random_laws(20))), fit(SAMPLES * 1000, unit * curves(random_laws(20)))
    torch.testing.assert_close(found.alpha_K, plain.alpha_K, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(found.reducible(1e7), unit * plain.reducible(1e4), rtol=1e-8, atol=0)


def test_tasks_are_fitted_by_themselves():
    """Many at once, and each the same as alone."""
    loss_KW = torch.rand(1000, 64, generator=torch.Generator().manual_seed(2)).double()
    found = fit(SAMPLES, loss_KW)
    assert found.valid().all()
    for k in (0, 17, 999):
        alone = fit(SAMPLES, loss_KW[k : k + 1])
        assert alone.alpha_K.item() == pytest.approx(found.alpha_K[k].item(), abs=1e-9)
        assert alone.e_K.item() == pytest.approx(found.e_K[k].item(), abs=1e-9)


@pytest.mark.parametrize("loss_W", [torch.full((64,), 0.4), torch.linspace(0.4, 0.6, 64)], ids=["flat", "rising"])
def test_a_loss_that_does_not_fall_has_nothing_to_learn(loss_W):
    law = fit(SAMPLES, torch.stack([loss_W.double(), curve(-1.2, 2.0, 0.4)]))
    speed_K = law.alpha_K * law.reducible(SAMPLES[-1])
    assert speed_K[0] < 0.01 * speed_K[1]


def test_losses_may_come_near_zero():
    """DPO's do: from .69 to 1e-4 nats; a zero itself has no logarithm and is left out."""
    loss_W = 0.69 * torch.logspace(0, -3.8, 64).double()
    law = fit(SAMPLES, torch.stack([loss_W, loss_W.index_fill(0, torch.tensor([60, 62]), 0.0)]))
    assert law.valid().all()
    assert (law.e_K.exp() + law.reducible(SAMPLES[-1]) < 0.01).all()


@pytest.mark.parametrize("loss_W", [[NAN] * 57 + [0.5] * 7, [0.0] * 64, [-0.3] * 64, [NAN] * 64])
def test_too_few_points_give_no_law(loss_W):
    law = fit(SAMPLES, torch.stack([vector(*loss_W), curve(-1.2, 2.0, 0.4)]))
    assert law.valid().tolist() == [False, True]
    assert law.alpha_K[1].item() == pytest.approx(0.4)


# --- curves -------------------------------------------------------------------------------------------------------


def test_the_task_that_is_learned_gets_more():
    """Falling, flat and noise; the prior is uniform. Speeds differ, while losses are equal at the start."""
    samples = torch.arange(1, 301, dtype=torch.float64) * 30
    noise = 0.6 + 0.05 * torch.randn(300, generator=torch.Generator().manual_seed(0)).double()
    losses = torch.stack([curve(-3.0, 0.6, 0.3, samples), torch.full((300,), 0.6).double(), noise], 1)
    mix, state = play(ADO(prior="uniform").for_run(["a", "b", "c"], 300), losses)
    assert mix.sample_K[0] > 0.8
    assert state["alpha_K"][0].item() == pytest.approx(0.3, abs=0.05)


def test_a_curve_keeps_means_over_stretches_of_equal_length():
    """200 steps in at most 64 points: stretches of four steps, 50 of them."""
    losses = torch.linspace(1, 2, 400).reshape(200, 2).double()
    _, state = play(ADO(every=10**9, warmup=0), losses)
    assert {k: tuple(v.shape) for k, v in state.items() if k.endswith("P")} == {
        "loss_KP": (2, POINTS),
        "count_KP": (2, POINTS),
        "samples_P": (POINTS,),
        "steps_P": (POINTS,),
    }
    assert (float(state["stretch"]), float(state["point"])) == (4, 49)
    assert state["steps_P"].tolist() == [4.0] * 50 + [0.0] * 14
    mean_KP = state["loss_KP"][:, :50] / state["count_KP"][:, :50]
    torch.testing.assert_close(mean_KP, losses.reshape(50, 4, 2).mean(1).T)
    assert (state["samples_P"][:50] / 4).tolist() == [20 * (4 * n + 2.5) for n in range(50)]


def test_steps_without_a_sample_and_the_warm_up_are_left_out():
    """Four steps of warm-up, then odd steps lack the task. The published code repeats the last loss."""
    losses = [[9.0]] * 4 + [[NAN], [0.5]] * 40
    counts = [[10.0]] * 4 + [[0.0], [10.0]] * 40
    _, state = play(ADO(every=10**9, warmup=4), losses, counts=counts)
    assert state["loss_KP"].sum() == pytest.approx(40 * 10 * 0.5)
    assert state["count_KP"].sum() == 40 * 10
    assert state["samples"] == 44 * 10, "seen is seen"


def test_a_fit_that_fails_keeps_the_old_law_of_its_task():
    """Twenty steps on a law; then the first task's loss stays, and the second's mean has no logarithm any more."""
    samples = torch.arange(1, 21, dtype=torch.float64) * 20
    good = torch.stack([curve(-3.0, 0.6, 0.3, samples), curve(-2.0, 0.0, 0.4, samples)], 1)
    mixer = ADO(every=20, warmup=0)
    _, state = play(mixer, good)
    assert state["alpha_K"].tolist() == pytest.approx([0.3, 0.4])
    state["loss_KP"][1] = -1.0
    for step in range(20, 40):
        _, state = mixer.update(MixSignal(step, torch.full((2,), 10.0), loss_K=vector(0.5, -1.0)), state)
    assert state["alpha_K"][0] > 0.31
    assert state["alpha_K"][1].item() == pytest.approx(0.4)
    assert state["fitted_K"].tolist() == [1, 1]


def test_lengths_may_be_shares_of_the_run():
    mixer = ADO().for_run(["a", "b"], 2000)
    assert (mixer.every, mixer.warmup) == (100, 100)
    assert ADO().for_run(["a", "b"], 100).every == 20, "fits that are closer say little new"
    assert ADO(every=3, warmup=7).for_run(["a", "b"], 100) == ADO(every=3, warmup=7)
    assert ADO(prior={"b": 1}).for_run(["a", "b"], 100).prior == [0, 1]
    with pytest.raises(MixalignError, match=r"`mixer\.every` is 0\.05, a share of the run"):
        ADO().init(torch.ones(2))


def test_the_order_of_the_tasks_does_not_matter_after_fits():
    rng = torch.Generator().manual_seed(3)
    losses = (torch.rand(60, 6, generator=rng) + torch.linspace(2, 1, 60)[:, None]).double()
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    mixer, rows = ADO(every=10, warmup=0), torch.arange(1.0, 7.0)
    mix, turned = play(mixer, losses, rows)[0], play(mixer, losses[:, order], rows[order])[0]
    assert not torch.equal(mix.sample_K, mixer.init(rows)[0].sample_K)
    torch.testing.assert_close(turned.sample_K, mix.sample_K[order], rtol=0, atol=1e-12)


def test_update_leaves_the_curve_it_was_given():
    """The curve is summed up in place, in a copy."""
    _, state = play(ADO(every=10, warmup=0), [[0.7, 0.6]] * 5)
    before = {name: value.clone() for name, value in state.items()}
    replace(ADO(), every=10, warmup=0).update(MixSignal(5, torch.ones(2), loss_K=torch.ones(2)), state)
    assert all(torch.equal(state[name], value) for name, value in before.items())
