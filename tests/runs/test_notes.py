"""What a run says of itself before it trains."""

import json

import pytest

from mixalign.config.compose import compose_settings
from mixalign.jobs.job import prepare
from mixalign.mixers.fixed import Temperature
from mixalign.mixers.wrapped import Wrapped
from mixalign.planning.plan import make_plan
from mixalign.runs.notes import chosen_of, notes_of
from tests.runs.test_identity import write_model


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


PAIRS = [{"prompt": f"{n} + 1?", "chosen": f"{n + 1}", "rejected": "0"} for n in range(12)]
ANSWERS = [{"prompt": f"{n} + 1?", "completion": f"{n + 1}"} for n in range(12)]
WHOLE = [{key: f"Q: {n}? A: {row[key]}" for key in ("chosen", "rejected")} for n, row in enumerate(PAIRS)]
TEMPLATED = [
    {**row, "prompt": f"<|im_start|>user\n{row['prompt']}<|im_end|>\n<|im_start|>assistant\n"} for row in PAIRS
]
TEXT = [{"text": f"The sky is blue, {n}."} for n in range(12)]
ALPACA = [{"instruction": row["prompt"], "output": row["completion"]} for row in ANSWERS]
TALKS = [{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": f"{n}"}]} for n in range(12)]
"""Rows in the forms that they come in."""


def of_rows(folder, rows, objective, *more, model="pretrained"):
    """The notes on the tasks `a` and `b` of the same rows, under a model with the chat template chatml."""
    write_model(folder / "model")
    overrides = [f"model.path={folder / 'model'}"] if model == "pretrained" else []
    for task in ("a", "b"):
        numbered = [
            {key: f"{value}" if isinstance(value, str) else value for key, value in row.items()} for row in rows
        ]
        (folder / f"{task}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in numbered))
        overrides.append(f"data.tasks.{task}.path={folder / task}.jsonl")
    given = [
        "data=local",
        f"model={model}",
        "model.chat_template=chatml",
        f"objective={objective}",
        "optimizer.warmup_steps=0",
    ]
    job = prepare(compose_settings([*given, *overrides, f"cache_dir={folder / 'cache'}", "data.max_length=128", *more]))
    return [note for note in make_plan(job).warnings if "chat template" in note], job


@pytest.mark.long
@pytest.mark.parametrize(
    ("rows", "objective"),
    [(PAIRS, "dpo"), (ANSWERS, "sft"), (PAIRS, "kto"), (WHOLE, "dpo")],
    ids=["pair", "sft", "kto", "whole"],
)
def test_plain_text_under_a_chat_model_is_named_with_what_to_do(tmp_path, rows, objective):
    (note,), _ = of_rows(tmp_path, rows, objective)
    assert "The rows of `a`, `b` are plain text" in note
    assert ("data.tasks.a.apply_chat_template=true" in note) is (rows is not WHOLE)
    assert "`prompt: [{role: user, content: ...}]`" in note
    both = [f"data.tasks.{task}.apply_chat_template=true" for task in "ab"]
    if rows is not WHOLE:
        assert of_rows(tmp_path, rows, objective, *both)[0] == []
        assert "The rows of `b` are" in of_rows(tmp_path, rows, objective, both[0])[0][0]


@pytest.mark.parametrize(
    ("rows", "objective"),
    [(TEMPLATED, "dpo"), (TEXT, "sft"), (ALPACA, "sft"), (TALKS, "sft")],
    ids=["templated", "text", "alpaca", "talks"],
)
def test_what_is_text_for_a_reason_is_nothing_to_speak_of(tmp_path, rows, objective):
    assert of_rows(tmp_path, rows, objective)[0] == []


def test_the_tiny_model_talks_to_nobody(tmp_path, tiny):
    assert of_rows(tmp_path, PAIRS, "dpo", model="tiny")[0] == []
    assert not [note for note in notes(tiny)[0] if "chat template" in note]


@pytest.mark.long
@pytest.mark.parametrize(
    ("overrides", "trains_specialists", "stages"),
    [
        (["mixer=ama_s"], True, {"reference.", "specialists."}),
        (["mixer=uniform"], False, {"reference."}),
        (["mixer=ama_s", "objective=sft"], True, {"specialists."}),
        (["mixer=ama_s", "reference.sft_steps=0"], True, {"specialists."}),
    ],
)
def test_what_was_chosen_for_a_stage_is_said_where_the_run_has_it(overrides, trains_specialists, stages):
    job = prepare(compose_settings(overrides))  # of the generated tasks, whose preset recommends steps of all stages
    text = " ".join(chosen_of(job, trains_specialists))
    assert {stage for stage in ("reference.", "specialists.") if stage in text} == stages
    assert "optimizer.lr=" in text
    assert ", (" not in text
