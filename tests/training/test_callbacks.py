"""Checks of the specialists' numbers, and the per-task log."""

import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.logger import DummyLogger

from mixalign.errors import MixalignError
from mixalign.mixers.ama_r import AMAR
from mixalign.mixers.ama_s import AMAS
from mixalign.models.load import LoRA
from mixalign.models.reference import frozen_copy
from mixalign.training.callbacks.specialist_check import SpecialistCheck
from mixalign.training.callbacks.task_log import TaskLog


def elsewhere(model):
    """The same model after some other training."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.1 * torch.randn(weight.shape, generator=generator)
    return model


@pytest.mark.parametrize("micro", [None, 4], ids=["whole", "accumulated"])
def test_a_reference_of_another_model_is_refused(dpo_job, tmp_path, micro):
    with pytest.raises(MixalignError, match=r"not those of the model that training starts from.* 0.693 that they give"):
        dpo_job.run(tmp_path, AMAR(), model=elsewhere(dpo_job.start()), micro=micro, callbacks=[SpecialistCheck()])


@pytest.mark.parametrize("lora", [None, LoRA(r=2)], ids=["full", "lora"])
def test_the_right_reference_passes(dpo_job, sft_job, tmp_path, lora):
    dpo_job.lora = lora
    run = dpo_job.run(tmp_path, AMAR(), steps=3, callbacks=[SpecialistCheck(tolerance=1e-5)])
    assert run.trainer.global_step == 3
    live = dpo_job.run(tmp_path, steps=2, live=frozen_copy, callbacks=[SpecialistCheck(tolerance=1e-5)])
    assert live.trainer.global_step == 2
    supervised = sft_job.run(tmp_path, steps=2, callbacks=[SpecialistCheck()])  # which has no reference
    assert supervised.trainer.global_step == 2


def test_scores_of_other_rows_are_refused(dpo_job, tmp_path):
    """A column that was attached in the wrong order."""
    for table in dpo_job.train:
        table.columns["reference_logp"] = np.roll(table.columns["reference_logp"], 1, axis=0)
    with pytest.raises(MixalignError, match="first loss differs by"):
        dpo_job.run(tmp_path, callbacks=[SpecialistCheck()])


def warnings_of(job, tmp_path, caplog) -> list[str]:
    caplog.clear()
    with caplog.at_level("WARNING", logger="mixalign"):
        job.run(tmp_path, AMAR(), steps=1, callbacks=[SpecialistCheck()])
    return [record.getMessage() for record in caplog.records]


def test_specialists_that_do_not_help_are_named(dpo_job, sft_job, tmp_path, caplog):
    assert warnings_of(dpo_job, tmp_path, caplog) == []
    dpo_job.train[1].columns["specialist_loss"][:] = 0.7  # the reference's loss is log 2 = 0.693
    (said,) = warnings_of(dpo_job, tmp_path, caplog)
    assert said.startswith("The specialist of task `reverse` is no better than the model that training starts from")
    assert "loss 0.700 against 0.693" in said
    sft_job.train[1].columns["specialist_loss"][:] = 70.0  # where no reference says what the start is
    assert warnings_of(sft_job, tmp_path, caplog) == []


def test_specialists_that_memorised_are_named(dpo_job, tmp_path, caplog):
    dpo_job.train[2].columns["specialist_loss"][:] = 0.01
    dpo_job.validation[2].columns["specialist_loss"][:] = 0.6
    (said,) = warnings_of(dpo_job, tmp_path, caplog)
    assert said.startswith(
        "The specialist of task `compare` has memorised its rows (loss 0.010 on training rows, 0.600"
    )
    for held_out, warned in ((0.15, True), (0.05, False)):  # of the 0.67 that it gained: a fifth; nothing to speak of
        dpo_job.train[2].columns["specialist_loss"][:] = 0.025
        dpo_job.validation[2].columns["specialist_loss"][:] = held_out
        assert len(warnings_of(dpo_job, tmp_path, caplog)) == warned
    dpo_job.validation[2].columns["specialist_loss"][:] = 0.0
    dpo_job.validation[2].columns["specialist_loss"][0] = 1.2  # one bad row of eight: by chance
    assert warnings_of(dpo_job, tmp_path, caplog) == []


class Memory(DummyLogger):
    """Keeps what is logged."""

    def __init__(self) -> None:
        self.lines: list[tuple[int, dict]] = []

    def log_metrics(self, metrics, step=None) -> None:
        self.lines.append((step, dict(metrics)))

    def of(self, key: str) -> dict[int, float]:
        return {step: line[key] for step, line in self.lines if key in line}


@pytest.mark.parametrize("micro", [None, 4], ids=["whole", "accumulated"])
def test_the_log_has_every_task_every_few_steps(dpo_job, tmp_path, micro):
    memory = Memory()
    run = dpo_job.run(
        tmp_path, AMAR(eta=0.5), steps=7, micro=micro, val_every=3, loggers=[memory],
        callbacks=lambda made: [TaskLog(made["mixing"], every=2)],
    )  # fmt: skip
    for task, k in zip(dpo_job.tasks, range(3), strict=True):
        wanted = {step: float(run.seen.alphas[step - 2][k]) for step in (2, 4, 6)}
        assert memory.of(f"alpha/{task}") == pytest.approx(wanted)
        for quantity in ("loss", "excess", "share", "epochs"):
            assert list(memory.of(f"{quantity}/{task}")) == [2, 4, 6]
        assert memory.of(f"share/{task}") == pytest.approx({2: 1 / 3, 4: 1 / 3, 6: 1 / 3})
        for quantity in ("loss", "accuracy", "margin", "excess", "gap", "specialist_loss"):
            assert list(memory.of(f"eval_{quantity}/{task}")) == [3, 6, 7]
        last = float(run.module.evaluation["loss"][k])
        assert memory.of(f"eval_loss/{task}")[7] == pytest.approx(last)
    for key in (
        "mix/entropy",
        "mix/effective_tasks",
        "mix/max_excess",
        "train/loss",
        "train/learning_rate",
        "train/grad_norm",
    ):
        assert list(memory.of(key)) == [2, 4, 6]
    assert len(memory.of("eval/worst_loss")) == 3


def test_logged_means_are_those_of_the_step(dpo_job, tmp_path):
    memory = Memory()
    run = dpo_job.run(
        tmp_path, AMAR(eta=0.5), steps=4, loggers=[memory], callbacks=lambda made: [TaskLog(made["mixing"], every=1)]
    )
    for step, seen in enumerate(run.seen.batches, 1):
        assert memory.of("train/loss")[step] == pytest.approx(float(seen.loss_B.mean()), rel=1e-5)
        for k, task in enumerate(dpo_job.tasks):
            mine = seen.task_B == k
            assert memory.of(f"loss/{task}")[step] == pytest.approx(float(seen.loss_B[mine].mean()), rel=1e-5)
    alpha_K = run.seen.alphas[-2]  # of the third update, under which step 4 was taken
    assert memory.of("mix/entropy")[4] == pytest.approx(-float((alpha_K * alpha_K.log()).sum()))
    assert memory.of("mix/effective_tasks")[4] == pytest.approx(1 / float((alpha_K**2).sum()))
    norm = torch.stack([g.norm() for g in run.seen.grads[-1].values()]).norm()
    assert memory.of("train/grad_norm")[4] == pytest.approx(float(norm), rel=1e-5)


def test_a_task_without_a_sample_has_no_number(dpo_job, tmp_path):
    memory = Memory()
    run = dpo_job.run(
        tmp_path, AMAS(), steps=8, batch_size=2, loggers=[memory],
        callbacks=lambda made: [TaskLog(made["mixing"], every=1)],
    )  # fmt: skip
    for k, task in enumerate(dpo_job.tasks):
        present = [step for step, seen in enumerate(run.seen.batches, 1) if (seen.task_B == k).any()]
        assert list(memory.of(f"loss/{task}")) == list(memory.of(f"excess/{task}")) == present
        assert list(memory.of(f"alpha/{task}")) == list(range(1, 9))


@pytest.mark.filterwarnings("ignore:.*Experiment logs directory.*")
def test_a_csv_file_gets_all_columns(dpo_job, tmp_path):
    logger = CSVLogger(tmp_path, name="", version="")
    dpo_job.run(
        tmp_path, AMAR(), steps=4, val_every=2, loggers=[logger],
        callbacks=lambda made: [TaskLog(made["mixing"], every=1)],
    )  # fmt: skip
    header, *lines = (tmp_path / "metrics.csv").read_text().splitlines()
    columns = header.split(",")
    assert {"step", "alpha/helpful", "excess/compare", "eval_loss/reverse", "eval/worst_excess"} <= set(columns)
    assert len(lines) >= 4
