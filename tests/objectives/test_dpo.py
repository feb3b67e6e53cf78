"""DPO on numbers that a reader can check.

With h = beta * [(chosen - reference chosen) - (rejected - reference rejected)] the loss is
`-(1 - s) log sigmoid(h) - s log sigmoid(-h)`. One row below: policy (-10, -14), reference (-11, -13), so the log
ratio is 1 - (-1) = 2, and with beta 0.5 h = 1: log(1 + 1/e) = 0.313262 without smoothing.
"""

from math import e, log

import pytest
import torch

from mixalign.errors import MixalignError
from mixalign.objectives.dpo import DPO
from mixalign.types import Batch

LOGP_BS = torch.tensor([[-10.0, -14.0], [-10.0, -14.0], [-20.0, -3.0]], dtype=torch.float64)
REFERENCE_BS = torch.tensor([[-11.0, -13.0], [-11.0, -13.0], [-20.0, -3.0]], dtype=torch.float64)


def batch(*tasks: int) -> Batch:
    return Batch(reference_logp_BS=REFERENCE_BS[: len(tasks)], task_B=torch.tensor(tasks))


def test_numbers_of_one_pair():
    scores = DPO(beta=0.5).scores(LOGP_BS[:1], batch(0))
    assert scores["loss"].item() == pytest.approx(log(1 + 1 / e), rel=1e-6)  # 0.313262
    assert scores["margin"].item() == pytest.approx(1.0)
    assert scores["accuracy"].item() == 1.0
    assert scores["loss"].dtype == torch.float32


def test_label_smoothing_mixes_both_labels():
    # log(1 + 1/e) = 0.313262 for the given labels, log(1 + e) = 1.313262 for the swapped ones
    scores = DPO(beta=0.5, label_smoothing=0.1).scores(LOGP_BS[:1], batch(0))
    assert scores["loss"].item() == pytest.approx(0.9 * 0.313262 + 0.1 * 1.313262, rel=1e-5)


def test_each_task_has_its_own_settings():
    objective = DPO(beta=0.5).for_tasks([{}, {"beta": 2.0}, {"label_smoothing": 0.2}])
    assert objective == DPO(beta=(0.5, 2.0, 0.5), label_smoothing=(0.0, 0.0, 0.2))
    scores = objective.scores(
        LOGP_BS[[0, 0, 0]], Batch(reference_logp_BS=REFERENCE_BS[[0, 0, 0]], task_B=torch.arange(3))
    )
    wanted = [log(1 + e**-1), log(1 + e**-4), 0.8 * log(1 + e**-1) + 0.2 * log(1 + e)]
    assert scores["loss"].tolist() == pytest.approx(wanted, rel=1e-6)
    assert scores["margin"].tolist() == pytest.approx([1.0, 4.0, 1.0])


@pytest.mark.parametrize("beta", [1e-3, 0.1, 5.0, (0.1, 3.0)])
@pytest.mark.parametrize("smoothing", [0.0, 0.3, (0.0, 0.49)])
def test_the_loss_at_the_reference_is_log_2(beta, smoothing):
    start = Batch(reference_logp_BS=LOGP_BS, task_B=torch.tensor([0, 1, 1]))
    scores = DPO(beta, smoothing).scores(LOGP_BS, start)
    assert scores["loss"].tolist() == pytest.approx([log(2)] * 3, rel=1e-7)
    assert scores["margin"].tolist() == [0, 0, 0]
    assert scores["accuracy"].tolist() == [0, 0, 0]  # a tie is no win


def test_long_completions_keep_their_digits():
    # a difference of 1e-3 nats on sums of 3000 is below float32's spacing there (2.4e-4) times a few
    logp_BS = torch.tensor([[-3000.001, -3000.0]], dtype=torch.float64)
    given = Batch(reference_logp_BS=torch.tensor([[-3000.0, -3000.0]], dtype=torch.float64), task_B=torch.tensor([0]))
    scores = DPO(beta=1.0).scores(logp_BS, given)
    assert scores["margin"].item() == pytest.approx(-1e-3, rel=1e-5)


def test_extreme_margins_stay_finite():
    given = Batch(reference_logp_BS=torch.zeros(2, 2, dtype=torch.float64), task_B=torch.tensor([0, 0]))
    logp_BS = torch.tensor([[0.0, -5000.0], [-5000.0, 0.0]], dtype=torch.float64, requires_grad=True)
    loss_B = DPO(beta=1.0).scores(logp_BS, given)["loss"]
    loss_B.sum().backward()
    assert loss_B.tolist() == [0.0, 5000.0]
    assert logp_BS.grad.tolist() == [[0.0, 0.0], [-1.0, 1.0]]  # d loss / d logp = -beta * sigmoid(-h) on the chosen


def test_the_gradient_is_beta_times_the_surprise():
    logp_BS = LOGP_BS[:1].clone().requires_grad_()
    DPO(beta=0.5).scores(logp_BS, batch(0))["loss"].sum().backward()
    surprise = 1 / (1 + e)  # sigmoid(-1) = 0.268941
    assert logp_BS.grad[0].tolist() == pytest.approx([-0.5 * surprise, 0.5 * surprise])


BAD = [
    ({"beta": 0.0}, "`objective.beta` is 0.0, but must be above 0"),
    ({"beta": -1}, "`objective.beta` is -1"),
    ({"beta": float("nan")}, "`objective.beta` is nan"),
    ({"beta": (0.1, 0.0)}, "`objective.beta` is 0.0"),
    ({"label_smoothing": 0.5}, r"`objective.label_smoothing` is 0.5, but must be in \[0, 0.5\)"),
    ({"label_smoothing": -0.1}, "`objective.label_smoothing` is -0.1"),
]


@pytest.mark.parametrize(("settings", "message"), BAD, ids=str)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(MixalignError, match=message):
        DPO(**settings)


def test_bad_settings_of_a_task_are_named():
    with pytest.raises(MixalignError, match=r"objective.beta` is -2"):
        DPO().for_tasks([{}, {"beta": -2}])
    with pytest.raises(MixalignError, match=r"objective.bta` is no setting of dpo. Did you mean `beta`"):
        DPO().for_tasks([{"bta": 1.0}])
