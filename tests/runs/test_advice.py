"""What deserves a second look before a run trains."""

import pytest

from mixalign.config.compose import compose_settings
from mixalign.jobs.job import prepare
from mixalign.runs.advice import warm_up_advice


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
    advice = warm_up_advice(prepare(compose_settings(tiny(*overrides))), train_specialists=True)
    assert len(advice) == bool(named)
    for part in named:
        assert part in advice[0]


def test_train_and_plan_say_it(tiny, tmp_path, in_process):
    overrides = tiny("mixer=uniform", "reference.sft_steps=0")
    code, _, said = in_process("train", *overrides, f"run_dir={tmp_path / 'run'}")
    assert code == 0
    assert "4 of 4 steps of the generalist" in said
    code, plan, _ = in_process("plan", *overrides)
    assert "4 of 4 steps of the generalist" in " ".join(plan.split())
