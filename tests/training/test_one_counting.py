"""A line of metrics.csv and of mix.jsonl is one optimizer step, counted from 1: what it was taken with and measured."""

import csv
import json

import pytest
import torch
from lightning.pytorch.callbacks import Callback

from mixalign.mixers.ama_s import AMAS
from mixalign.training.callbacks.mix_history import HistoryFile
from mixalign.training.callbacks.task_log import TaskLog
from mixalign.training.metrics_file import MetricsFile
from mixalign.training.optimizer import Optimizer


class Rates(Callback):
    """The learning rate that each step is taken with."""

    def __init__(self) -> None:
        self.rates: list[float] = []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer) -> None:
        self.rates.append(optimizer.param_groups[0]["lr"])


@pytest.mark.parametrize("micro", [None, 3], ids=["whole", "accumulated"])
def test_a_line_is_what_its_step_did(dpo_job, tmp_path, micro):
    rates, steps = Rates(), 6
    run = dpo_job.run(
        tmp_path,
        AMAS(eta=2.0),
        steps=steps,
        micro=micro,
        val_every=2,
        optimizer=Optimizer(1e-2, warmup_steps=6),
        history=tmp_path / "mix.jsonl",
        loggers=[MetricsFile(str(tmp_path))],
        callbacks=lambda made: [rates, TaskLog(made["mixing"], every=1)],
    )
    with (tmp_path / "metrics.csv").open() as file:
        assert next(csv.reader(file))[0] == "step"
        file.seek(0)
        table = list(csv.DictReader(file))
    lines = {int(line["step"]): line for line in table if line["train/loss"]}
    mixes = {line["step"]: line for line in map(json.loads, (tmp_path / "mix.jsonl").read_text().splitlines())}
    assert [*lines] == [*mixes] == [*range(1, steps + 1)]
    assert [int(line["step"]) for line in table if line["eval/worst_loss"]] == [2, 4, 6]
    assert len({*rates.rates}) == steps, "a schedule that stands still would show nothing"
    alphas = [torch.full((3,), 1 / 3, dtype=torch.float64), *run.seen.alphas]
    per_step = len(run.seen.batches) // steps
    seen_K = torch.zeros(3)
    for step in range(1, steps + 1):
        batches = run.seen.batches[(step - 1) * per_step : step * per_step]
        task_B, loss_B = (torch.cat([getattr(b, name) for b in batches]) for name in ("task_B", "loss_B"))
        seen_K += torch.bincount(task_B, minlength=3)
        line, mix = lines[step], mixes[step]
        assert float(line["train/learning_rate"]) == rates.rates[step - 1]
        assert float(line["train/loss"]) == pytest.approx(float(loss_B.mean()), rel=1e-5)
        assert mix["count"] == torch.bincount(task_B, minlength=3).tolist()
        for k, task in enumerate(dpo_job.tasks):
            assert float(line[f"alpha/{task}"]) == float(alphas[step - 1][k])
            assert mix["sample"][k] == pytest.approx(float(alphas[step - 1][k]), abs=1e-8)
            assert float(line[f"share/{task}"]) == pytest.approx(float(seen_K[k] / seen_K.sum()))
            if (task_B == k).any():
                wanted = pytest.approx(float(loss_B[task_B == k].mean()), rel=1e-5)
                assert float(line[f"loss/{task}"]) == wanted
                assert mix["task_loss"][k] == wanted


@pytest.mark.parametrize("first", [1, 0], ids=["ours", "of a version that counted from 0"])
def test_lines_are_cut_by_step(tmp_path, first):
    path = tmp_path / "mix.jsonl"
    steps = [*range(first, first + 4), first + 3]  # one of them written twice
    path.write_text("".join(json.dumps({"step": step, "sample": [0.5, 0.5]}) + "\n" for step in steps) + '{"step": 9,')
    HistoryFile(AMAS(), ["a", "b"], path).forget_after(3)
    lines = path.read_text().splitlines()
    assert [json.loads(line) for line in lines] == [{"step": step, "sample": [0.5, 0.5]} for step in (1, 2, 3)]


def test_step_becomes_the_first_column_of_an_older_file(tmp_path):
    (tmp_path / "metrics.csv").write_text("alpha/a,loss,step\n0.5,1.0,1\n0.25,2.0,2\n")
    logger = MetricsFile(str(tmp_path))
    logger.forget_after(1)
    logger.log_metrics({"loss": 3.0, "alpha/a": 0.125}, 2)
    assert (tmp_path / "metrics.csv").read_text().split() == ["step,alpha/a,loss", "1,0.5,1.0", "2,0.125,3.0"]
