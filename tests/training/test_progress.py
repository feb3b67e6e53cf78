"""The bar of a training, and its lines where nobody watches."""

import logging
import re
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.callbacks import LambdaCallback

from mixalign.course import READING, TRAINING, Course, Stage
from mixalign.mixers.ama_r import AMAR
from mixalign.mixers.ama_s import AMAS
from mixalign.mixers.fixed import Temperature
from mixalign.training.callbacks.progress import MixtureProgress

SHOWN = {"enable_progress_bar": True}
NAN = float("nan")


def train(job, folder, **options):
    """A training with the bar, as `progress=true` has it."""
    return job.run(
        folder,
        callbacks=lambda held: [MixtureProgress(held["mixing"], "maths")],
        trainer_options=SHOWN,
        **options,
    )


def test_it_shows_steps_the_heaviest_tasks_and_the_worst_excess(dpo_job, tmp_path, screen):
    run = train(dpo_job, tmp_path, mixer=AMAS(), steps=4, val_every=2)
    text = screen.shown()
    assert "maths" in text
    for step in range(1, 5):
        assert f"step {step}/4" in text
    assert re.search(r"step 2/4  \d+:\d\d left", text)
    assert re.search(r"\n  loss \d\.\d{3}  worst excess ", text)
    assert re.search(r"\n  \w+ 0\.\d\d [\u2588-\u258f]", text)  # a weight and its small bar
    assert f"worst excess {run.module.evaluation['excess'].max():.3f}" in text
    assert "  validating\n" in re.sub(r" +\n", "\n", text)
    heaviest = run.mixing.mix.alpha_K.argmax()
    assert f"{dpo_job.tasks[heaviest]} {run.mixing.mix.alpha_K[heaviest]:.2f}" in text
    assert screen.getvalue().endswith("\x1b[2K")  # the last that is written erases a line


def test_it_goes_on_where_the_training_does(dpo_job, tmp_path, screen):
    def save_after_two(trainer, *_):
        if trainer.global_step == 2:
            trainer.save_checkpoint(tmp_path / "two.ckpt")

    dpo_job.run(tmp_path, steps=4, callbacks=[LambdaCallback(on_train_batch_end=save_after_two)])
    train(dpo_job, tmp_path, steps=4, resume=tmp_path / "two.ckpt")
    assert "step 2/4" in screen.shown()
    assert "1/4" not in screen.shown()


def test_it_goes_away_when_a_training_fails(dpo_job, tmp_path, screen):
    def failing(held):
        def fail(*_):
            raise RuntimeError("out of luck")

        bar = MixtureProgress(held["mixing"], "maths")
        bar.on_train_batch_end = fail
        return [bar]

    with pytest.raises(RuntimeError, match="out of luck"):
        dpo_job.run(tmp_path, AMAR(), callbacks=failing, trainer_options=SHOWN)
    assert "maths" in screen.shown()
    assert screen.getvalue().endswith("\x1b[2K")


def test_other_processes_than_the_first_show_none(dpo_job, tmp_path, screen):
    def disabled(held):
        bar = MixtureProgress(held["mixing"], "maths")
        bar.disable()  # as Lightning does there
        return [bar]

    dpo_job.run(tmp_path, steps=2, callbacks=disabled, trainer_options=SHOWN)
    assert screen.getvalue() == ""


def test_in_a_pipe_there_are_ten_lines_with_the_time_that_is_left(dpo_job, tmp_path, caplog):
    with caplog.at_level(logging.INFO, logger="mixalign"):
        run = train(dpo_job, tmp_path, mixer=AMAS(), steps=20, val_every=10)
    lines = [text for text in caplog.messages if text.startswith("maths, ")]
    steps = [re.match(r"maths, step (\d+)/20, loss \d\.\d{3}, ", line)[1] for line in lines]
    assert steps == [str(n) for n in range(2, 21, 2)]
    assert all(re.search(r", \d+:\d\d left$", line) for line in lines[:-1])
    assert "left" not in lines[-1]
    assert f"worst excess {run.module.evaluation['excess'].max():.3f}" not in lines[0]
    heaviest = run.mixing.mix.alpha_K.argmax()
    assert f"{dpo_job.tasks[heaviest]} {run.mixing.mix.alpha_K[heaviest]:.2f}" in lines[-1]


def test_with_a_terminal_there_are_no_lines(dpo_job, tmp_path, screen, caplog):
    with caplog.at_level(logging.INFO, logger="mixalign"):
        train(dpo_job, tmp_path, steps=4)
    assert not [text for text in caplog.messages if text.startswith("maths")]


def test_the_course_of_the_run_hears_of_every_step_and_validation(dpo_job, tmp_path, caplog):
    """The rows of two validations of all validation tokens each, and steps that are 40 units in all."""
    course = Course()
    rows = sum(float(table.length_N.sum()) for table in dpo_job.validation)
    course.begin([Stage("other"), Stage("maths", {TRAINING: 40.0, READING: 2 * rows})], {TRAINING: 60.0, READING: 1e-9})
    course.enter("maths")
    with caplog.at_level(logging.INFO, logger="mixalign"):
        dpo_job.run(
            tmp_path,
            AMAS(),
            steps=4,
            val_every=2,
            callbacks=lambda held: [MixtureProgress(held["mixing"], "maths", course)],
            trainer_options=SHOWN,
        )
    said = [text for text in caplog.messages if text.startswith("[1/1] maths")]
    totals = [line.rpartition("total about ")[2] for line in said]
    assert totals[:3] == ["30 min", "20 min", "10 min"]  # a minute for each unit that is left, in place of a speed
    with caplog.at_level(logging.INFO, logger="mixalign"):
        course.finish()
    assert re.match(
        r"\[1/1\] maths: 4 steps, last batch's loss \d\.\d{3}, worst excess .*, took 0:\d\d$", caplog.messages[-1]
    )


@pytest.mark.parametrize(("found", "said"), [([NAN, 0.5], "0.500"), ([NAN, NAN], "nan")])
def test_a_validation_that_is_not_finite_does_not_end_the_training(found, said):
    bar = MixtureProgress(None, "maths")
    trainer = SimpleNamespace(state=SimpleNamespace(fn="fit"), datamodule=SimpleNamespace(validation=[]))
    bar.on_validation_end(trainer, SimpleNamespace(evaluation={"excess": torch.tensor(found)}))
    assert bar._worst == f"worst excess {said}"


def test_weights_that_stay_are_not_shown(dpo_job, tmp_path, caplog):
    with caplog.at_level(logging.INFO, logger="mixalign"):
        train(dpo_job, tmp_path, mixer=Temperature(1.0), steps=2)
    assert not [text for text in caplog.messages if dpo_job.tasks[0] in text]
