"""AMA-S's arithmetic, its estimator under the real sampler, and its gradient against AMA-R's."""

from itertools import product
from math import log, prod, sqrt
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from mixalign.data.batches.sampler import MixtureSampler
from mixalign.errors import MixalignError
from mixalign.mixers.ama_s import AMAS
from mixalign.mixers.base import MixSignal
from mixalign.mixers.fixed import Temperature
from mixalign.training.callbacks.mixing import Mixing
from mixalign.training.module import AlignModule
from mixalign.training.optimizer import Optimizer

NAN = float("nan")


def play(mixer, *measured):
    """The mixture after one update a row of measurements, given as both kinds of excess."""
    mix, state = mixer.init(torch.ones(len(measured[0])))
    for step, values in enumerate(measured):
        value_K = torch.tensor(values, dtype=torch.float64)
        signal = MixSignal(step, (~value_K.isnan()).double(), excess_K=value_K, excess_iw_K=value_K.nan_to_num())
        mix, state = mixer.update(signal, state)
    return mix.sample_K.tolist()


@pytest.mark.parametrize(
    ("settings", "excess", "sample"),
    [
        ({"eta": 1.0, "c": 0.0}, [[log(3), 0.0]], [0.75, 0.25]),
        ({"eta": 1.0, "c": 0.2}, [[log(3), 0.0]], [0.7, 0.3]),  # .8 * .75 + .2 / 2
        # EXP3 moves q, not alpha: q is 9 : 1 after two updates, and .8 * .9 + .1 = .82
        ({"eta": 1.0, "c": 0.2}, [[log(3), 0.0], [log(3), 0.0]], [0.82, 0.18]),
        ({"eta": 0.5, "c": 0.0}, [[log(9), 0.0]], [0.75, 0.25]),
        ({"eta": 0.0}, [[5.0, 0.0]], [0.5, 0.5]),
        # importance: an absent task's estimate is 0, and the others' are large enough to make up for it
        ({"eta": 1.0, "c": 0.0}, [[log(3), NAN]], [0.75, 0.25]),
    ],
)
def test_weights(settings, excess, sample):
    assert play(AMAS(**settings), *excess) == pytest.approx(sample, abs=1e-12)


@pytest.mark.parametrize(
    ("absent", "excess", "odds"),  # odds: q_0 / q_1
    [
        ("hold", [[log(2), 0.0], [log(2), 0.0]], 4),
        ("hold", [[log(2), 0.0], [NAN, 0.0]], 4),  # absent at the second update: log 2 once more
        ("hold", [[log(2), 0.0], [NAN, 0.0], [log(3), 0.0]], 12),  # a new mean replaces the held one
        ("hold", [[NAN, 0.0]], 1),  # never seen: nothing is known, and its share stays
        ("hold", [[NAN, 5.0], [NAN, 5.0]], 1),
        ("ema", [[log(16), 0.0]], 16),  # the first sight is taken as it is
        ("ema", [[log(16), 0.0], [0.0, 0.0]], 16 * 8),  # then .75 * log 16 + .25 * 0 = log 8
        ("ema", [[log(16), 0.0], [NAN, 0.0]], 16 * 16),  # absent: the average stays
        ("ema", [[NAN, 5.0], [NAN, 5.0]], 1),
    ],
)
def test_a_task_without_a_sample(absent, excess, odds):
    q = play(AMAS(eta=1.0, c=0.0, absent=absent, ema_decay=0.75), *excess)
    assert q[0] / q[1] == pytest.approx(odds)


def test_a_task_that_was_never_seen_keeps_its_share_while_others_move():
    sample = play(AMAS(eta=1.0, c=0.0, absent="hold"), [NAN, log(2), 0.0])
    assert sample == pytest.approx([1 / 3, 4 / 9, 2 / 9])


@pytest.mark.parametrize(
    ("excess", "odds"),  # eta 1, entropy 1/2: half of the log-odds is forgotten in an update
    [
        ([[log(4), 0.0]], 4),
        ([[log(4), 0.0], [0.0, 0.0]], 2),
        ([[log(4), 0.0], [log(4), 0.0]], 8),
        ([[log(4), 0.0]] * 60, 16),  # where it tends to: softmax(excess / entropy)
        ([[log(4), 0.0]] * 60 + [[0.0, 0.0]] * 60, 1),  # a task that has caught up gives its share back
    ],
)
def test_entropy_forgets(excess, odds):
    q = play(AMAS(eta=1.0, c=0.0, entropy=0.5), *excess)
    assert q[0] / q[1] == pytest.approx(odds)


def test_without_entropy_nothing_is_forgotten_to_the_bit():
    excess = torch.rand(50, 4, dtype=torch.float64).tolist()
    assert play(AMAS(eta=0.3, entropy=0.0), *excess) == play(AMAS(eta=0.3), *excess)
    assert play(AMAS(eta=0.3, entropy=0.01), *excess) != play(AMAS(eta=0.3), *excess)


def test_more_than_all_of_the_past_cannot_be_forgotten():
    with pytest.raises(MixalignError, match=r"`mixer.entropy` is 3.0 and `mixer.eta` 0.5, whose product"):
        AMAS(eta=0.5, entropy=3.0)


def test_c_of_one_is_uniform_sampling():
    excess = torch.rand(50, 4, dtype=torch.float64).tolist()
    uniform, _ = Temperature(float("inf")).init(torch.tensor([8.0, 4.0, 2.0, 1.0]))
    assert play(AMAS(eta=1.0, c=1.0), *excess) == uniform.sample_K.tolist()


@pytest.mark.parametrize(
    ("updates", "share"),
    [
        (0, 1.0),
        (5, 1.0),  # sqrt(4 ln 4 / 5) = 1.05: never more than everything
        (10, 0.744660),  # sqrt(4 ln 4 / 10)
        (100, 0.235482),
        (100_000, 0.05),  # sqrt(4 ln 4 / 100000) = .0074 is below c
    ],
)
def test_decaying_exploration(updates, share):
    """A task whose q is zero is drawn with probability share / K."""
    mixer = AMAS(eta=1.0, c=0.05, c_schedule="decay")
    mix, state = mixer.init(torch.ones(4))
    if updates:
        excess_K = torch.tensor([100.0, 100.0, 100.0, 0.0], dtype=torch.float64)
        mix, _ = mixer.update(MixSignal(updates - 1, torch.ones(4), excess_iw_K=excess_K), state)
    assert mix.sample_K[3].item() == pytest.approx(share / 4, abs=1e-5)


@pytest.mark.parametrize(
    ("settings", "num_tasks", "batch_size", "safe"),
    [
        ({"eta": 0.1, "c": 0.1}, 6, 42, True),  # .1 * .693 * 6 / (.1 * 42) = .099
        ({"eta": 1.0, "c": 0.1}, 6, 42, True),  # .99
        ({"eta": 1.1, "c": 0.1}, 6, 42, False),  # 1.09
        ({"eta": 0.1, "c": 0.1}, 6, 4, False),  # the same jump in a batch of 4: 1.04
        ({"eta": 0.1, "c": 0.0}, 6, 42, False),  # nothing bounds 1 / alpha
        ({"eta": 9.0, "c": 0.1, "absent": "ema"}, 6, 42, True),  # does not divide by alpha
        ({"eta": 0.0, "c": 0.0}, 6, 42, True),
    ],
)
def test_caution_when_one_sample_can_multiply_a_weight_by_more_than_e(settings, num_tasks, batch_size, safe):
    text = AMAS(**settings).caution(num_tasks, batch_size)
    assert (text is None) == safe


def test_caution_tells_the_factor_and_a_safe_eta():
    """2 * log 2 * 3 / (.1 * 8) = 5.2 and e^5.2 = 181; the largest safe eta is 2 / 5.2 = .385."""
    text = AMAS(eta=2.0, c=0.1).caution(3, 8)
    assert "mixer.eta=2 is unsafe with c=0.1, 3 tasks and batches of 8" in text
    assert "multiply its weight by 181" in text
    assert "Take eta at most 0.385" in text
    assert AMAS(eta=0.384, c=0.1).caution(3, 8) is None


ALPHA = (0.85, 0.09, 0.04, 0.02)
EXCESS = (0.8, 0.4, 0.2, 0.05)


@pytest.mark.long
@pytest.mark.parametrize("batch_size", [8, 32])
def test_the_estimate_is_unbiased_and_the_plain_mean_is_not(batch_size):
    """Four unequal tasks, the real sampler and the real callback, measured with the mixture held fixed.

    A rare task is absent from a batch with probability (1 - alpha)^B: .52 for the rarest at B = 32. The mean that
    counts an absent task as 0 therefore tends to excess * (1 - (1 - alpha)^B), less than half of the truth.
    """
    steps, alpha_K, excess_K = 1500, torch.tensor(ALPHA, dtype=torch.float64), torch.tensor(EXCESS)
    sampler = MixtureSampler([1000] * 4, batch_size, seed=1)
    trainer = SimpleNamespace(
        global_step=0, is_global_zero=True, accumulate_grad_batches=1, datamodule=SimpleNamespace(sampler=sampler)
    )
    module = SimpleNamespace(device="cpu", mix_loss_K=None, probed={})
    mixing = Mixing(AMAS(eta=0.0, c=0.0), list("abcd"), [1000] * 4)
    held = mixing.state_dict()
    held["mix"]["sample_K"], held["mixer"]["log_q_K"] = alpha_K, alpha_K.log()
    mixing.load_state_dict(held)
    mixing.on_fit_start(trainer, module)
    estimates, plain_means = [], []
    for step in range(steps):
        draw = sampler.draw()
        task_B = torch.from_numpy(draw.task_B)
        module.measured = {"task_B": task_B, "loss_B": excess_K[task_B] + 0.1, "excess_B": excess_K[task_B]}
        module.measured["draw_prob_B"] = torch.from_numpy(draw.prob_B)
        mixing.on_before_backward(trainer, module, None)
        trainer.global_step = step + 1
        mixing.on_train_batch_end(trainer, module, {}, {}, step)
        estimates.append(mixing.signal.excess_iw_K)
        plain_means.append(mixing.signal.excess_K.nan_to_num())
    for k, (alpha, truth) in enumerate(zip(ALPHA, EXCESS, strict=True)):
        present = 1 - (1 - alpha) ** batch_size
        error = truth * sqrt((1 - alpha) / (batch_size * alpha * steps))  # standard error of the estimate's mean
        assert torch.stack(estimates)[:, k].mean().item() == pytest.approx(truth, abs=4 * error)
        error = truth * sqrt(present * (1 - present) / steps)
        assert torch.stack(plain_means)[:, k].mean().item() == pytest.approx(truth * present, abs=4 * error + 1e-6)


class LinearPolicy(nn.Module):
    """A log-linear policy: the log-ratio of a pair is x . theta."""

    def __init__(self, theta):
        super().__init__()
        self.theta = nn.Parameter(torch.tensor(theta, dtype=torch.float64))


def log_linear_dpo(model, batch):
    log_ratio_B = batch["x_BH"] @ model.theta
    return {"loss": -nn.functional.logsigmoid(0.5 * log_ratio_B)}


log_linear_dpo.form = "preference"


ROWS = [  # task, features, specialist's loss: the second pair of task 0 is already better than its specialist
    (0, (1.0, 0.0), 0.2),
    (0, (0.0, 2.0), 0.9),
    (1, (-1.0, 1.0), 0.1),
    (1, (0.5, 0.5), 0.3),
    (1, (0.0, -1.0), 0.0),
]


def gradient(rows, loss_K=None):
    """What one training step of the real module descends on."""
    policy = LinearPolicy([0.3, -0.2])
    module = AlignModule(policy, log_linear_dpo, ["a", "b"], Optimizer(1e-3), descends_on="excess", clip="sample")
    module.trainer = SimpleNamespace(world_size=1, accumulate_grad_batches=1)
    module.mix_loss_K = loss_K
    task, x, specialist = zip(*rows, strict=True)
    task_B = torch.tensor(task)
    batch = {
        "task_B": task_B,
        "x_BH": torch.tensor(x, dtype=torch.float64),
        "specialist_loss_B": torch.tensor(specialist, dtype=torch.float64),
        "count_K": torch.bincount(task_B, minlength=2).double(),
        "draw_prob_B": torch.full((len(rows),), 0.5),
    }
    module.training_step(batch, 0)["loss"].backward()
    return policy.theta.grad


@pytest.mark.parametrize("alpha", [(0.5, 0.5), (0.9, 0.1)])
def test_expected_gradient_is_that_of_ama_r_at_equal_weights(alpha):
    """Every batch of two draws, weighted with its probability, against one batch that holds every row.

    Sampling by alpha and weighting by alpha are the same objective; doing both would be alpha squared.
    """
    size = [sum(row[0] == k for row in ROWS) for k in (0, 1)]
    expected = torch.zeros(2, dtype=torch.float64)
    for rows in product(ROWS, repeat=2):
        probability = prod(alpha[row[0]] / size[row[0]] for row in rows)
        expected += probability * gradient(rows)
    reweighted = gradient(ROWS, torch.tensor(alpha, dtype=torch.float64))
    torch.testing.assert_close(expected, reweighted, rtol=1e-6, atol=0)
    assert expected.norm() > 0.03


def test_pairs_that_beat_their_specialist_have_no_gradient():
    """At theta . x = -.4 the second pair loses log(1 + e^.2) = .798, less than its specialist's .9."""
    assert gradient([ROWS[1]]).tolist() == [0.0, 0.0]
    assert gradient([ROWS[0]]).norm() > 0.1
