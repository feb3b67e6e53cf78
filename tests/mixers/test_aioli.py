"""Aioli's arithmetic (arXiv 2411.05735, Algorithms 1 and 2), in worlds in which its law holds."""

from math import exp

import pytest
import torch

from mixalign.errors import MixalignError
from mixalign.mixers.aioli import Aioli
from mixalign.mixers.base import MixSignal

NAN = float("nan")
TASKS = ["a", "b", "c"]
A = torch.tensor([[0.30, 0.05, 0.02], [0.04, 0.20, -0.03], [0.06, 0.01, 0.10]], dtype=torch.float64)


def world(mixer, steps, lower, *, rows=(100.0, 200.0, 300.0), count=lambda p, step: 1000 * p, skip=()):
    """Mixtures of every step and states after it.

    Args:
        lower: what a step takes off the losses, from the batch's composition and the step, counted from 0.
        count: rows of each task in a batch of a mixture.
        skip: steps whose update is left out, as after a loss that is not finite; the weights do not move either.
    """
    mix, state = mixer.init(torch.tensor(rows, dtype=torch.float64))
    loss_K, mixes, states = torch.full((len(rows),), 3.0, dtype=torch.float64), [mix], []
    for step in range(steps):
        count_K = count(mix.sample_K, step)
        if step not in skip:
            loss_K = loss_K - lower(count_K / count_K.sum(), step)
            seen_K = loss_K if mixer.asks(step + 1) else torch.full_like(loss_K, NAN)
            mix, state = mixer.update(MixSignal(step, count_K, probe_loss_K=seen_K), state)
        mixes.append(mix)
        states.append(state)
    return [m.sample_K for m in mixes], states


def law(mixer, A_KK=A):
    """The world's own: a burst of `steps` steps of composition p takes A p off the losses."""
    return lambda p_K, step: A_KK @ p_K / mixer.steps


def near(tensor, wanted, atol=1e-10):
    torch.testing.assert_close(tensor, torch.as_tensor(wanted, dtype=torch.float64), rtol=0, atol=atol)


def told(**settings):
    """Phases of 2 x 3 bursts of 2 steps from step 1 and 21 on, in a run of 40."""
    return Aioli(**{"rounds": 2, "steps": 2, "every": 20, "warmup": 1, "until": 30} | settings).for_run(TASKS, 40)


def test_the_clock():
    """Bursts from the fewest rows (task 1) to the most (task 2) and back; measured at the border of each."""
    mixer = told(one_hot=0.8)
    samples, _ = world(mixer, 40, law(mixer), rows=(200.0, 100.0, 300.0))
    heads = [int(p.argmax()) if float(p.max()) == 0.8 else None for p in samples[:40]]
    phase = [1, 1, 0, 0, 2, 2, 2, 2, 0, 0, 1, 1]
    assert heads == [None, *phase, *[None] * 8, *phase, *[None] * 7]
    near(samples[1], [0.1, 0.8, 0.1])
    assert [step for step in range(1, 41) if mixer.asks(step)] == [*range(1, 14, 2), *range(21, 34, 2)]
    assert samples[0].tolist() == pytest.approx([1 / 3] * 3)
    assert samples[13].equal(samples[20])
    assert not samples[13].equal(samples[33])


@pytest.mark.parametrize("one_hot", [0.5, 0.75, 1.0])
def test_recovers_the_law_of_a_linear_world(one_hot):
    mixer = told(one_hot=one_hot, normalise=False)
    _, states = world(mixer, 40, law(mixer))
    near(states[12]["mean_A_KK"], A)
    near(states[39]["mean_A_KK"], A)


def test_recovers_it_from_batches_that_are_not_what_was_asked_for():
    """Seven rows cannot have the shares of a burst; with the mixture in place of the counts A is far off."""
    mixer = told(normalise=False)
    rng = torch.Generator().manual_seed(0)

    def drawn(p_K, step):
        return torch.bincount(torch.multinomial(p_K, 7, True, generator=rng), minlength=3).double()

    _, states = world(mixer, 40, law(mixer), count=drawn)
    near(states[12]["mean_A_KK"], A, 1e-8)


@pytest.mark.parametrize("missed", [[0], [4], [12], [0, 2], [33, 34]])
def test_a_border_that_was_missed_makes_one_equation_of_two_bursts(missed):
    """A step whose loss is not finite gets no update, so its border is not measured."""
    mixer = told(normalise=False)
    samples, states = world(mixer, 40, law(mixer), skip=missed)
    near(states[20]["mean_A_KK"], A)
    near(states[39]["mean_A_KK"], A)
    assert not samples[14].equal(samples[0])


def test_a_phase_in_which_nothing_was_measured_changes_nothing():
    mixer = told()
    samples, _ = world(mixer, 20, law(mixer), skip=range(1, 19))
    assert samples[20].equal(samples[0])
    samples, states = world(mixer, 20, lambda p_K, step: torch.full((3,), NAN, dtype=torch.float64))
    assert samples[20].equal(samples[0])
    assert states[-1]["learning"] == states[-1]["learned"] == 0


def test_a_phase_that_did_not_measure_every_task_changes_nothing():
    """Task 0's bursts are the first, whose start is missed, and the last, whose end is; two mixtures are left."""
    mixer = told()
    samples, _ = world(mixer, 20, law(mixer), skip=[0, 2, 12])
    assert samples[20].equal(samples[0])


def test_a_task_that_is_never_drawn_leaves_the_others_their_law():
    """As in quarantine: the batches have none of it, whatever the mixture says."""
    mixer = told(normalise=False)
    there_K = torch.tensor([1.0, 0.0, 1.0])
    _, states = world(mixer, 20, law(mixer), count=lambda p_K, step: 1000 * p_K * there_K)
    near(states[-1]["mean_A_KK"], A * there_K)


def test_a_step_between_borders_without_an_update_counts_for_nothing():
    mixer = told(normalise=False)
    near(world(mixer, 13, law(mixer), skip=[1])[1][12]["mean_A_KK"], A)


def test_even_rounds_cancel_a_speed_that_changes_linearly():
    """Losses fall by themselves, first fast and then more slowly; with one round the first bursts get the credit."""

    def slowing(mixer):
        return lambda p_K, step: law(mixer)(p_K, step) + 0.05 * (1 - step / 40)

    for rounds, fair in ((2, True), (1, False)):
        mixer = told(rounds=rounds, normalise=False)
        plain, _ = world(mixer, 15, law(mixer))
        drifting, _ = world(mixer, 15, slowing(mixer))
        assert bool((plain[-1] - drifting[-1]).abs().max() < 1e-10) is fair


def test_the_mixture_moves_by_the_column_sums():
    """Columns of A sum to .4, .26, .09; with eta 2 the odds to the first task are e^-.28, e^-.62, and then squared."""
    mixer = told(eta=2.0, normalise=False)
    samples, _ = world(mixer, 40, law(mixer))
    odds = [1, exp(-0.28), exp(-0.62)]
    near(samples[13] / samples[13][0], odds)
    near(samples[39] / samples[39][0], [x * x for x in odds])


@pytest.mark.parametrize(
    ("A_KK", "normalised"),
    [
        ([[0.3, 0.1], [0.2, 0.4]], [[0.3, 0.1], [0.2, 0.4]]),
        ([[0.6, 0.2], [0.4, 0.8]], [[0.3, 0.1], [0.2, 0.4]]),
        ([[0.2, 0.0], [0.1, -0.1]], [[0.5, 1 / 6], [1 / 3, 0.0]]),  # + .1, of sum .6
    ],
)
def test_entries_are_shifted_to_zero_and_scaled_to_sum_to_one(A_KK, normalised):
    mixer = Aioli(rounds=2, steps=2, every=20, warmup=1, until=30).for_run(["a", "b"], 40)
    samples, states = world(mixer, 20, law(mixer, torch.tensor(A_KK, dtype=torch.float64)), rows=(100.0, 200.0))
    near(states[-1]["mean_A_KK"], normalised)
    near(samples[-1], torch.tensor(normalised, dtype=torch.float64).sum(0).softmax(0))


PHASES = [A, 0.5 * A.flip(1)]
"""Mean drops of loss (row) in the bursts of a task (column) in two phases; they are not the law's A here."""

CODE = [  # settings; the first row of the first phase's A; mixtures after both phases
    (
        {"one_hot": 0.625, "eta": 0.2},
        [0.31496062992125984, 0.05249343832021, 0.02099737532808399],
        [0.34387742576176805, 0.33391582757144794, 0.3222067466667841],
        [0.33263268755308134, 0.33473462489383726, 0.33263268755308134],
    ),
    (
        {"one_hot": 0.75, "eta": 1.0, "ema": 0.1},
        [0.3179487179487179, 0.0615384615384616, 0.0307692307692308],
        [0.3855223765285551, 0.3339560819618275, 0.2805215415096174],
        [0.29045604957337734, 0.33496175966773023, 0.37458219075889254],
    ),
    (
        {"one_hot": 0.5, "eta": 0.5, "normalise": False},
        [0.8300000000000001, -0.16999999999999993, -0.29],
        [0.435971449944866, 0.32950013360720837, 0.23452841644792569],
        [0.3803321003695288, 0.3407144782600494, 0.2789534213704218],
    ),
]


@pytest.mark.parametrize(("settings", "row", "first", "second"), CODE, ids=["paper", "ema", "in nats"])
def test_agrees_with_the_published_code(settings, row, first, second):
    """HazyResearch/aioli at a236112, trainer/aioli_trainer.py: `train` and `learn_params_subroutine`.

    It was run on an evaluator that takes `PHASES[n] + .01 (round - .5) (task + 1)` off the losses in each burst, with
    lp_rounds 2 and no training. It shuffles the bursts, which does not matter there, and solves with the shares that it
    asked for, which batches here have.
    """
    mixer = told(**settings)
    bursts = [0, 1, 2, 2, 1, 0]

    def lower(p_K, step):
        phase, burst = step // 20, (step - 1) % 20 // 2
        if step % 20 == 0 or burst > 5:
            return torch.zeros(3, dtype=torch.float64)
        task, round_ = bursts[burst], burst // 3
        return (PHASES[phase][:, task] + 0.01 * (round_ - 0.5) * (task + 1)) / 2

    samples, states = world(mixer, 40, lower)
    near(states[12]["mean_A_KK"][0], row)
    near(samples[13], first)
    near(samples[39], second)


def test_lengths_are_shares_of_the_run():
    """The generated tasks' default: phases of 2 x 6 bursts of 3 steps from 11 on, and from 71 on."""
    mixer = Aioli().for_run([*"abcdef"], 150)
    assert (mixer.steps, mixer.every, mixer.warmup, mixer.until) == (3, 60, 11, 113)
    asked = [step for step in range(1, 151) if mixer.asks(step)]
    assert asked == [*range(11, 48, 3), *range(71, 108, 3)]
    assert Aioli(warmup=0).for_run(TASKS, 100).warmup == 1, "nothing is measured before the first step"
    with pytest.raises(MixalignError, match=r"`mixer\.steps` is 0\.02, a share of the run"):
        Aioli().init(torch.ones(3))


@pytest.mark.parametrize("steps", [40, 33, 34])
def test_no_phase_begins_that_could_not_end(steps):
    """The second phase would take the steps from 21 to 33, and one more to make use of it."""
    mixer = Aioli(rounds=2, steps=2, every=20, warmup=1, until=1000).for_run(TASKS, steps)
    assert any(mixer.asks(step) for step in range(14, steps + 1)) is (steps >= 34)


@pytest.mark.parametrize(
    ("settings", "steps", "said"),
    [
        (
            {},
            13,
            r"With `steps=13` and `mixer\.warmup` 1 no .*`mixer\.rounds` 2 x 3 .*`mixer\.steps` 2 steps, 12 in all",
        ),
        ({"every": 12}, 40, r"`mixer\.every` is 12 steps, but a learning phase of 3 tasks .* 12 in all"),
        ({"rounds": 50}, 400, r"`mixer\.every` is 20 steps, but .* 300 in all"),
    ],
)
def test_what_does_not_fit_into_the_run_is_refused(settings, steps, said):
    with pytest.raises(MixalignError, match=said):
        Aioli(**{"rounds": 2, "steps": 2, "every": 20, "warmup": 1} | settings).for_run(TASKS, steps)
    told(every=13), told().for_run(TASKS, 14)  # just fits


def test_a_burst_must_put_its_own_task_first():
    with pytest.raises(MixalignError, match=r"`mixer\.one_hot` is 0\.25, but must be more than 1 / 3"):
        told(one_hot=0.25).init(torch.ones(3))
    with pytest.raises(MixalignError, match=r"`mixer\.rounds` is 1\.5, but must be a whole number"):
        Aioli(rounds=1.5)
