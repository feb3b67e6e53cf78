"""What a run says of itself before it trains."""

import pytest

from mixalign.config.compose import compose_settings
from mixalign.jobs.job import prepare
from mixalign.mixers.fixed import Temperature
from mixalign.mixers.wrapped import Wrapped
from mixalign.planning.plan import make_plan
from mixalign.runs.notes import notes_of


def notes(tiny, *overrides, warmup=("optimizer.warmup_steps=0",)):
    job = prepare(compose_settings(tiny(*warmup, *overrides)))
    return notes_of(job, job.settings.mixer.for_run(job.tasks, job.steps), train_specialists=True), job


@pytest.mark.parametrize("setting", ["loss=ipo", "reference_free=true"])
def test_losses_on_several_scales_are_named(tiny, setting):
    (note,), job = notes(tiny, f"+data.tasks.reverse.objective.{setting}")
    kind = "ipo" if "ipo" in setting else "sigmoid, reference_free"
    assert f"(sigmoid of `helpful`, `compare`; {kind} of `reverse`)" in note
    assert note in make_plan(job).warnings


@pytest.mark.parametrize(
    "more", [(), ("+data.tasks.reverse.objective.beta=0.3",), ("objective=sft",), ("objective=kto",)]
)
def test_losses_on_one_scale_are_nothing_to_speak_of(tiny, more):
    assert notes(tiny, *more)[0] == []


def test_steps_that_a_cap_does_not_allow_are_said_at_the_start(tiny):
    """Three tasks of 40 rows, in batches of 6: 20 steps."""
    (note,), job = notes(tiny, "mixer.wrap.max_epochs=1", "steps=50")
    assert "allows about 120 rows, but 50 steps of 6 want 300: the run ends after about 20 steps" in note
    assert notes(tiny, "mixer.wrap.max_epochs=1", "steps=20")[0] == []
    assert notes_of(job, Wrapped(Temperature(), max_epochs=3), train_specialists=False) == []


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (
            ["steps=12"],
            [
                "10 of 12 steps of the generalist",
                "3 of 3 steps of the reference policy, the specialist of",
                "and 1 more",
            ],
        ),
        (["steps=4", "reference.sft_steps=0"], ["4 of 4 steps of the generalist", "specialist of `helpful`"]),
        (["steps=20", "reference.sft_steps=20", "specialists.steps=20"], []),
        (["optimizer.warmup_steps=0.1"], []),
        (["optimizer.warmup_steps=0"], []),
    ],
)
def test_a_training_that_is_mostly_warm_up_is_named(tiny, overrides, named):
    found, _ = notes(tiny, *overrides, warmup=())
    assert len(found) == bool(named)
    for part in named:
        assert part in found[0]


@pytest.mark.long
def test_train_and_plan_say_it(tiny, tmp_path, in_process):
    overrides = tiny("mixer=uniform", "reference.sft_steps=0")
    code, _, said = in_process("train", *overrides, f"run_dir={tmp_path / 'run'}")
    assert code == 0
    assert "4 of 4 steps of the generalist" in said
    code, plan, _ = in_process("plan", *overrides)
    assert "4 of 4 steps of the generalist" in " ".join(plan.split())
