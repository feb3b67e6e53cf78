"""DPO on numbers that a reader can check.

With h = beta * [(chosen - reference chosen) - (rejected - reference rejected)] the loss is
`-(1 - s) log sigmoid(h) - s log sigmoid(-h)`. One row below: policy (-10, -14), reference (-11, -13), so the log
ratio is 1 - (-1) = 2, and with beta 0.5 h = 1: log(1 + 1/e) = 0.313262 without smoothing.
"""

from math import e, log

import pytest
import torch

from mixalign.data.batches.collate import collate
from mixalign.errors import MixalignError
from mixalign.objectives.dpo import DPO
from mixalign.training.callbacks.specialist_check import SpecialistCheck
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


def with_tokens(*tasks: int) -> Batch:
    """As `batch`, of chosen completions with 2 tokens and rejected ones with 4."""
    return batch(*tasks) | Batch(num_tokens_BS=torch.tensor([[2.0, 4.0]]).repeat(len(tasks), 1))


def without_reference(*tasks: int) -> Batch:
    given = with_tokens(*tasks)
    del given["reference_logp_BS"]
    return given


# of the pair above: sums are (-10, -14), their means (-5, -3.5); log ratios (1, -1), their means (0.5, -0.25)
ONE_PAIR = {
    "ipo": ({"loss": "ipo"}, (0.75 - 1) ** 2, 1.0, 1.0),
    "sigmoid_norm": ({"loss": "sigmoid_norm"}, log(1 + e**-0.375), 1.0, 1.0),
    "simpo": ({"loss": "simpo", "gamma": 0.25}, log(1 + e), -0.75, 0.0),  # h = 0.5 * (-1.5) - 0.25 = -1
    "reference-free": ({"reference_free": True}, log(1 + e**-2), 2.0, 1.0),
    "reference-free ipo": ({"reference_free": True, "loss": "ipo"}, (-1.5 - 1) ** 2, 2.0, 1.0),
    "nll": ({"nll_weight": 0.1}, log(1 + 1 / e) + 0.5, 1.0, 1.0),
}


@pytest.mark.parametrize("case", ONE_PAIR)
def test_numbers_of_one_pair_with_other_losses(case):
    settings, loss, margin, accuracy = ONE_PAIR[case]
    scores = DPO(beta=0.5, **settings).scores(LOGP_BS[:1], with_tokens(0))
    assert scores["loss"].item() == pytest.approx(loss, rel=1e-6)
    assert (scores["margin"].item(), scores["accuracy"].item()) == pytest.approx((margin, accuracy))
    assert {value.dtype for value in scores.values()} == {torch.float32}


MIXED = [
    {},
    {"loss": "ipo", "beta": 0.3},
    {"loss": "simpo", "gamma": 1.0, "label_smoothing": 0.2},
    {"loss": "orpo", "nll_weight": 0.5},
    {"loss": "hinge", "reference_free": True},
    {"loss": "apo_zero"},
    {"loss": "apo_down"},
    {"loss": "robust", "label_smoothing": 0.1},
    {"loss": "sigmoid_norm"},
]


def test_tasks_of_a_batch_may_have_different_losses():
    """Values and gradients are those of a batch of the task's own, whatever the neighbours."""
    mixed = DPO(beta=0.5).for_tasks(MIXED)
    order = [3, 0, 1, 2, 8, 4, 5, 7, 6, 3, 0]
    generator = torch.Generator().manual_seed(0)
    logp_BS = (-9 * torch.rand(len(order), 2, generator=generator, dtype=torch.float64)).requires_grad_()
    reference_BS = -9 * torch.rand(len(order), 2, generator=generator, dtype=torch.float64)
    tokens_BS = torch.randint(1, 5, (len(order), 2), generator=generator).float()
    every = Batch(reference_logp_BS=reference_BS, num_tokens_BS=tokens_BS, task_B=torch.tensor(order))
    scores = mixed.scores(logp_BS, every)
    (grad_BS,) = torch.autograd.grad(scores["loss"].sum(), logp_BS)
    for b, task in enumerate(order):
        part = Batch(**{key: value[b : b + 1] for key, value in every.items()}) | Batch(task_B=torch.tensor([0]))
        one_BS = logp_BS[b : b + 1].detach().requires_grad_()
        alone = DPO(**{"beta": 0.5} | MIXED[task]).scores(one_BS, part)
        for key, value_B in scores.items():
            assert value_B[b].item() == pytest.approx(alone[key].item(), rel=1e-6), (key, MIXED[task])
        torch.testing.assert_close(grad_BS[b], torch.autograd.grad(alone["loss"].sum(), one_BS)[0][0])


@pytest.mark.parametrize("settings", [{"loss": "simpo"}, {"loss": "orpo"}, {"reference_free": True}], ids=str)
def test_without_a_reference_none_is_read(settings):
    objective = DPO(**settings)
    assert not objective.uses_reference
    assert objective.scores(LOGP_BS[:1], without_reference(0))["loss"].isfinite().all()


def test_the_reference_is_read_only_by_tasks_that_want_it():
    objective = DPO().for_tasks([{"loss": "simpo"}, {}, {"reference_free": True}])
    assert objective.uses_reference
    assert not DPO().for_tasks([{"loss": "simpo"}, {"reference_free": True}]).uses_reference
    given = with_tokens(0, 1, 2)
    known = objective.scores(LOGP_BS, given)
    given["reference_logp_BS"] = torch.full((3, 2), torch.nan, dtype=torch.float64)
    for key, value_B in objective.scores(LOGP_BS, given).items():
        assert value_B[[0, 2]].equal(known[key][[0, 2]])
    assert objective.scores(LOGP_BS, given)["loss"][1].isnan()


def test_one_forward_pass_gives_everything(dpo_job, monkeypatch):
    passes = []
    model = dpo_job.start()
    model.register_forward_hook(lambda *_: passes.append(1))
    model.base_model.register_forward_hook(lambda *_: passes.append(1))
    objective = DPO(nll_weight=1.0).for_tasks([{"loss": "ipo"}, {"loss": "orpo"}, {}])
    model(input_ids=torch.zeros(1, 1, dtype=torch.long))
    probe = len(passes)
    rows = collate(dpo_job.train, *torch.tensor([[0, 1, 2], [1, 2, 3]]).numpy())
    objective(model, rows)  # looks at the head once
    passes.clear()
    objective(model, rows)["loss"].sum().backward()
    assert (probe, len(passes)) == (2, 1)


@pytest.mark.parametrize("settings", [{"loss": "simpo", "beta": 2.0}, {"reference_free": True}], ids=str)
def test_a_training_without_a_reference(small_job, tmp_path, settings):
    job = small_job(objective=DPO(**settings))
    run = job.run(tmp_path, steps=20)
    assert not any("reference_logp" in table.columns for table in job.train)
    losses = [float(batch.loss_B.mean()) for batch in run.seen.batches]
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])


def test_a_training_with_a_loss_for_each_task(small_job, tmp_path):
    job = small_job(objective=DPO(0.5).for_tasks([{"loss": "ipo"}, {"loss": "orpo"}, {"loss": "hinge"}]))
    run = job.run(tmp_path, steps=5, callbacks=[SpecialistCheck()])  # the first losses are those at the reference
    first = run.seen.batches[0]
    for task, loss in ((0, 1.0), (2, 1.0)):  # (1 / (2 * 0.5))^2, and the whole margin missing
        assert first.loss_B[first.task_B == task].tolist() == pytest.approx([loss] * 4, abs=1e-5)
    assert run.module.evaluation["loss"].isfinite().all()


BAD = [
    ({"beta": 0.0}, "`objective.beta` is 0.0, but must be a number above 0. 0.1 is usual"),
    ({"beta": -1}, "`objective.beta` is -1"),
    ({"beta": float("nan")}, "`objective.beta` is nan"),
    ({"beta": (0.1, 0.0)}, "`objective.beta` is 0.0"),
    ({"label_smoothing": 0.5}, "`objective.label_smoothing` is 0.5, but must be a number from 0 to 0.5, but not 0.5"),
    ({"label_smoothing": -0.1}, "`objective.label_smoothing` is -0.1"),
    (
        {"label_smoothing": 0.1, "loss": "ipo"},
        "is 0.1, but `objective.loss=ipo` does not read it.*take one of sigmoid, rob",
    ),
    ({"label_smoothing": 0.5, "loss": "robust"}, "must be a number from 0 to 0.5, but not 0.5"),
    ({"loss": "sigmod"}, "`objective.loss` is 'sigmod'. Did you mean `sigmoid`"),
    ({"loss": 3}, "`objective.loss` is 3"),
    ({"loss": ["ipo", "hinge"]}, r"`objective.loss` is \['ipo', 'hinge'\]"),
    ({"loss": ("ipo", "dpo")}, "`objective.loss` is 'dpo'"),
    ({"gamma": -1.0}, "`objective.gamma` is -1.0, but must be a number from 0 on"),
    ({"nll_weight": -0.5}, "`objective.nll_weight` is -0.5, but must be a number from 0 on"),
    ({"nll_weight": "much"}, "`objective.nll_weight` is 'much', but must be a number from 0 on"),
    ({"beta": True}, "`objective.beta` is True, but must be a number above 0"),
    ({"reference_free": 1}, "`objective.reference_free` is 1, but must be true or false"),
]


@pytest.mark.parametrize(("settings", "message"), BAD, ids=str)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(MixalignError, match=message):
        DPO(**settings)


def test_bad_settings_of_a_task_are_named():
    with pytest.raises(MixalignError, match=r"objective.beta` is -2"):
        DPO().for_tasks([{}, {"beta": -2}])
    with pytest.raises(MixalignError, match=r"smoothing` is 0.2, but `objective.loss=hinge` does not read it"):
        DPO(label_smoothing=0.2).for_tasks([{}, {"loss": "hinge"}])
    assert DPO(label_smoothing=0.2).for_tasks([{}, {"loss": "hinge", "label_smoothing": 0}]).loss == (
        "sigmoid",
        "hinge",
    )
    with pytest.raises(MixalignError, match=r"objective.bta` is no setting of dpo. Did you mean `beta`"):
        DPO().for_tasks([{"bta": 1.0}])
