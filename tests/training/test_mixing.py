"""The callback that closes the loop: what it measures, when it updates, what it remembers."""

import json

import lightning as L
import numpy as np
import pytest
import torch

from mixalign.errors import MixalignError
from mixalign.mixers.ama_r import AMAR
from mixalign.mixers.ama_s import AMAS
from mixalign.mixers.base import Mix
from mixalign.mixers.fixed import Fixed, Temperature
from mixalign.mixers.group_dro import GroupDRO
from mixalign.mixers.wrapped import Wrapped
from mixalign.training.callbacks.mixing import Mixing
from mixalign.training.lightning_quirks import stopped_by

MIXERS = {"ama_r": AMAR(eta=0.5), "ama_s": AMAS(eta=0.5), "group_dro": GroupDRO(eta=0.5), "temperature": Temperature()}


class Spy:
    """Passes everything on to a mixer, and keeps the signals."""

    def __init__(self, mixer) -> None:
        self.mixer, self.signals = mixer, []

    def __getattr__(self, name):
        return getattr(self.mixer, name)

    def update(self, signal, state):
        self.signals.append(signal)
        return self.mixer.update(signal, state)


@pytest.mark.parametrize("micro", [None, 4], ids=["whole", "accumulated"])
@pytest.mark.parametrize("clip", ["sample", "task", "none"])
def test_a_signal_is_the_mean_over_the_global_batch(dpo_job, tmp_path, micro, clip):
    spy = Spy(AMAS(eta=0.5, clip=clip))
    run = dpo_job.run(tmp_path, spy, steps=4, micro=micro)
    parts = 1 if micro is None else 3
    assert [s.step for s in spy.signals] == [0, 1, 2, 3]
    assert len(run.seen.batches) == 4 * parts
    for step, signal in enumerate(spy.signals):
        seen = run.seen.batches[step * parts : (step + 1) * parts]
        task_B, loss_B, specialist_B, prob_B = (
            torch.cat([getattr(b, name) for b in seen])
            for name in ("task_B", "loss_B", "specialist_loss_B", "draw_prob_B")
        )
        gap_B = loss_B - specialist_B
        excess_B = gap_B.clamp_min(0) if clip == "sample" else gap_B
        for k in range(3):
            mine = task_B == k
            number = int(mine.sum())
            assert signal.count_K[k] == number
            weighted = float((excess_B / prob_B)[mine].sum()) / 12
            mean = float(excess_B[mine].mean()) if number else float("nan")
            if clip == "task":
                weighted, mean = max(weighted, 0.0), max(mean, 0.0) if number else mean
            assert float(signal.excess_iw_K[k]) == pytest.approx(weighted, rel=1e-5, abs=1e-6)
            assert float(signal.excess_K[k]) == pytest.approx(mean, rel=1e-5, abs=1e-6, nan_ok=True)
            wanted = float(loss_B[mine].mean()) if number else float("nan")
            assert float(signal.loss_K[k]) == pytest.approx(wanted, rel=1e-5, nan_ok=True)


def test_importance_weighted_losses_are_sums_over_the_draws(dpo_job, tmp_path):
    spy = Spy(AMAS(eta=2.0))
    run = dpo_job.run(tmp_path, spy, steps=4)
    for signal, batch in zip(spy.signals, run.seen.batches, strict=True):
        for k in range(3):
            weighted = float((batch.loss_B / batch.draw_prob_B)[batch.task_B == k].sum()) / 12
            assert float(signal.loss_iw_K[k]) == pytest.approx(weighted, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("clip", ["sample", "task", "none"])
def test_the_update_after_a_validation_sees_its_losses(dpo_job, tmp_path, clip):
    """Validations after steps 2 and 4 of 5; every other update has nothing new to see."""
    spy, found = Spy(AMAS(eta=0.5, clip=clip)), []

    class Keep(L.Callback):
        def on_validation_end(self, trainer, pl_module):
            found.append(dict(pl_module.evaluation))

    dpo_job.run(tmp_path, spy, steps=5, val_every=2, callbacks=[Keep()])
    assert [bool(s.eval_loss_K.isfinite().all()) for s in spy.signals] == [False, False, True, False, True]
    assert [bool(s.eval_excess_K.isfinite().all()) for s in spy.signals] == [False, False, True, False, True]
    for signal, evaluation in zip((spy.signals[2], spy.signals[4]), found, strict=False):
        wanted_K = evaluation["excess"] if clip == "sample" else evaluation["gap"]
        wanted_K = wanted_K.clamp_min(0) if clip == "task" else wanted_K
        assert signal.eval_loss_K.tolist() == evaluation["loss"].tolist()
        assert signal.eval_excess_K.tolist() == wanted_K.tolist()


def test_a_checkpoint_keeps_the_validation_that_no_update_has_seen(dpo_job, tmp_path):
    run = dpo_job.run(tmp_path, GroupDRO(), steps=2, val_every=2)
    fresh = Mixing(GroupDRO(), dpo_job.tasks, [60, 40, 50])
    fresh.load_state_dict(run.mixing.state_dict())
    assert fresh.state_dict()["eval"]["eval_loss_K"].tolist() == run.module.evaluation["loss"].tolist()


def test_an_update_acts_on_the_very_next_batch(dpo_job, tmp_path):
    run = dpo_job.run(tmp_path, AMAS(eta=2.0), steps=6, micro=6)
    # the probabilities that a batch was drawn with are the mixture before it: uniform, then each update's
    mixtures = [torch.full((3,), 1 / 3, dtype=torch.float64), *run.seen.samples]
    for n, batch in enumerate(run.seen.batches):
        assert batch.draw_prob_B.equal(mixtures[n // 2][batch.task_B])
    assert not run.seen.samples[0].equal(mixtures[0])


def test_the_first_batch_has_the_mixers_first_mixture(dpo_job, tmp_path):
    proportional = Temperature(1.0)
    run = dpo_job.run(tmp_path, proportional, steps=1, batch_size=15)
    assert run.seen.batches[0].count_K.tolist() == [6, 4, 5]  # of 60, 40 and 50 rows


@pytest.mark.parametrize("name", MIXERS)
def test_weights_move_once_an_optimizer_step(dpo_job, tmp_path, name):
    run = dpo_job.run(tmp_path, MIXERS[name], steps=4, micro=3)
    assert run.mixing.updates == run.trainer.global_step == len(run.seen.alphas) == 4
    assert len(run.seen.batches) == 16
    assert run.data.sampler.step == 4
    moves = [not a.equal(b) for a, b in zip(run.seen.alphas, run.seen.alphas[1:], strict=False)]
    assert all(moves) if name != "temperature" else not any(moves)


def test_the_weights_are_what_the_rule_makes_of_the_signals(dpo_job, tmp_path):
    spy = Spy(AMAR(eta=0.5))
    run = dpo_job.run(tmp_path, spy, steps=5)
    alpha_K = torch.full((3,), 1 / 3, dtype=torch.float64)
    for signal, found_K in zip(spy.signals, run.seen.alphas, strict=True):
        alpha_K = alpha_K * (0.5 * signal.excess_K).exp()
        alpha_K = alpha_K / alpha_K.sum()
        torch.testing.assert_close(found_K, alpha_K, rtol=1e-12, atol=0)


def test_history_has_one_line_an_update_with_the_mixture_it_was_measured_under(dpo_job, tmp_path):
    history = tmp_path / "mix.jsonl"
    spy = Spy(AMAR(eta=0.5))
    run = dpo_job.run(tmp_path, spy, steps=4, micro=6, history=history)
    lines = [json.loads(line) for line in history.read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    alphas = [[1 / 3] * 3, *(a.tolist() for a in run.seen.alphas)]
    for line, alpha, signal in zip(lines, alphas, spy.signals, strict=False):
        assert line["loss"] == pytest.approx(alpha, abs=1e-8)
        assert line["sample"] == pytest.approx([1 / 3] * 3, abs=1e-8)
        assert line["excess"] == pytest.approx(signal.excess_K.tolist(), abs=1e-8)
        assert line["task_loss"] == pytest.approx(signal.loss_K.tolist(), abs=1e-8)
        assert line["count"] == [4, 4, 4]


def test_an_absent_task_is_null_in_the_history(dpo_job, tmp_path):
    class Never(Temperature):
        def init(self, rows_K):
            mix = Mix(torch.tensor([0.5, 0.5, 0.0], dtype=torch.float64))
            return mix, {"sample_K": mix.sample_K}

    history = tmp_path / "mix.jsonl"
    run = dpo_job.run(tmp_path, Never(1.0), steps=2, history=history)
    line = json.loads(history.read_text().splitlines()[0])
    assert line["count"] == [6, 6, 0]
    assert line["excess"][2] is line["task_loss"][2] is None
    assert line["loss"] is None  # a neutral lever
    assert run.mixing.signal.excess_iw_K[2] == 0


def test_the_summary_counts_rows_and_averages_weights(dpo_job, tmp_path):
    run = dpo_job.run(tmp_path, AMAR(eta=0.5), steps=5)
    found = run.mixing.summary(run.data.sampler)
    before = torch.stack([torch.full((3,), 1 / 3, dtype=torch.float64), *run.seen.alphas[:-1]])
    assert found["loss_mean"] == pytest.approx(before.mean(0).tolist())
    assert found["loss_final"] == run.seen.alphas[-1].tolist()
    assert found["sample_mean"] == pytest.approx([1 / 3] * 3)
    assert found["rows_seen"] == [20, 20, 20]
    assert found["epochs_seen"] == pytest.approx([20 / 60, 20 / 40, 20 / 50], abs=1e-4)
    assert (found["tasks"], found["steps"]) == (dpo_job.tasks, 5)


@pytest.mark.parametrize("name", MIXERS)
def test_the_state_survives_a_safe_load(dpo_job, tmp_path, name):
    run = dpo_job.run(tmp_path, MIXERS[name], steps=3)
    torch.save(run.mixing.state_dict(), tmp_path / "state")
    state = torch.load(tmp_path / "state", weights_only=True)
    fresh = Mixing(MIXERS[name], dpo_job.tasks, [60, 40, 50])
    fresh.load_state_dict(state)
    assert fresh.updates == 3
    assert fresh.mix.alpha_K.equal(run.mixing.mix.alpha_K)
    assert all(fresh.state[key].equal(value) for key, value in run.mixing.state.items())
    assert fresh.summary(run.data.sampler) == run.mixing.summary(run.data.sampler)


class Poisoned:
    """The job's objective, whose loss is not finite for one task from its n-th training call on."""

    def __init__(self, objective, task: int, call: int, value: float = float("nan")) -> None:
        self.objective, self.task, self.call, self.value, self.calls = objective, task, call, value, 0

    def __getattr__(self, name):
        return getattr(self.objective, name)

    def __call__(self, model, batch):
        scores = self.objective(model, batch)
        if torch.is_grad_enabled():
            if self.calls >= self.call:
                scores["loss"] = torch.where(batch["task_B"] == self.task, self.value, scores["loss"])
            self.calls += 1
        return scores


@pytest.mark.parametrize(("micro", "call", "step"), [(None, 0, 1), (None, 3, 4), (6, 7, 4)])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("mixer", ["ama_r", "temperature"])
def test_a_loss_that_is_not_finite_names_task_and_step(dpo_job, tmp_path, micro, call, step, value, mixer):
    dpo_job.objective = Poisoned(dpo_job.objective, 1, call, value)
    with pytest.raises(MixalignError, match=f"The loss of task `reverse` is not finite at step {step}"):
        dpo_job.run(tmp_path, MIXERS[mixer], steps=6, micro=micro)


def test_several_bad_tasks_are_all_named(dpo_job, tmp_path):
    dpo_job.objective = Poisoned(Poisoned(dpo_job.objective, 0, 0), 2, 0)
    with pytest.raises(MixalignError, match="task `helpful`, `compare` is not finite"):
        dpo_job.run(tmp_path, steps=2)


def test_an_unsafe_step_size_is_said_before_training(dpo_job, tmp_path, caplog):
    with caplog.at_level("WARNING", logger="mixalign"):
        dpo_job.run(tmp_path, AMAS(eta=20.0), steps=1)
    assert [r.message for r in caplog.records if "mixer.eta=20 is unsafe" in r.message]
    caplog.clear()
    with caplog.at_level("WARNING", logger="mixalign"):
        dpo_job.run(tmp_path, AMAS(eta=0.1), steps=1)
    assert not caplog.records


def test_a_run_ends_when_every_task_has_had_its_max_epochs(dpo_job, tmp_path, caplog):
    """Of 60, 40 and 50 rows: 150, in batches of 12, so that each is seen at least once and at most once and a batch."""
    with caplog.at_level("INFO", logger="mixalign"):
        run = dpo_job.run(tmp_path, Wrapped(Temperature(float("inf")), max_epochs=1), steps=40, val_every=30)
    assert 13 <= run.trainer.global_step < 17
    assert ((run.data.sampler.epochs_K >= 1) & (run.data.sampler.cursor_K < run.data.sampler.rows_K + 12)).all()
    (said,) = [r.getMessage() for r in caplog.records if r.getMessage().startswith("every task")]
    assert said == f"every task has had its max_epochs: the run ends at step {run.trainer.global_step} of 40"
    assert stopped_by(run.trainer) == "Mixing (every task has had its max_epochs)"
    assert run.module.evaluation["count"].tolist() == [7, 7, 7], "validated at the end"


def test_a_task_of_weight_0_does_not_keep_a_run_going(dpo_job, tmp_path):
    run = dpo_job.run(tmp_path, Wrapped(Fixed([0, 1, 0]), max_epochs=1), steps=40)
    assert run.data.sampler.cursor_K.tolist() == [0, 48, 0]


@pytest.mark.parametrize("every", [1, 4])
def test_clip_by_task_averages_over_the_updates_before_it_clips(dpo_job, tmp_path, every):
    for table in dpo_job.train:  # gaps of either sign, 0 on average
        table.columns["specialist_loss"][:] = np.log(2) + np.where(np.arange(len(table)) % 2, 0.5, -0.5)
    seen = []

    class Listening(AMAR):
        def update(self, signal, state):
            seen.append(signal.excess_K)
            return super().update(signal, state)

    run = dpo_job.run(
        tmp_path, Wrapped(Listening(clip="task"), every=every), steps=4, lr=1e-9, composition="multinomial"
    )
    gap_K = torch.zeros(3, dtype=torch.float64)
    count_K = torch.zeros(3, dtype=torch.float64)
    for batch in run.seen.batches[-every:]:
        gap_K.index_add_(0, batch.task_B, (batch.loss_B - batch.specialist_loss_B).double())
        count_K.index_add_(0, batch.task_B, torch.ones(len(batch.task_B), dtype=torch.float64))
    torch.testing.assert_close(seen[-1], (gap_K / count_K).clamp_min(0), rtol=1e-4, atol=1e-6)
