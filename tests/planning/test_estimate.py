"""Time, memory and trainings of a plan, by arithmetic."""

import re
from dataclasses import replace

import pytest

from mixalign.config.compose import compose_settings
from mixalign.course import READING, TRAINING
from mixalign.files import read_json, write_json
from mixalign.frozen.batch_sizes import need_of
from mixalign.frozen.costs import metered, speeds
from mixalign.frozen.timed import timed
from mixalign.jobs.job import prepare
from mixalign.models.load import LoRA, Pretrained
from mixalign.models.shapes import Shapes, shapes_of
from mixalign.models.tiny import TinyLlama
from mixalign.planning.estimate import Estimate, estimate, estimate_lines

LENGTH = {
    "helpful": 17,
    "reverse": 17,
    "compare": 11,
}  # tokens of a row with both answers; see tests/verbs/test_plan.py
ALL = sum(LENGTH.values())


@pytest.fixture
def job(tiny, tmp_path):
    settings = compose_settings(
        tiny("mixer=ama_s", "optimizer.warmup_steps=0", f"cache_dir={tmp_path}", "val_every=4", "eval.start=false")
    )
    return prepare(settings)


def of(job):
    return estimate(job, job.settings.mixer.for_run(job.tasks, job.steps), True)


def put(job, number: int, seconds: float, **work: float) -> None:
    """A record of what an earlier training, or reading, took."""
    folder = job.cache / "costs"
    before = {*folder.glob("*.json")}
    with metered(job, {"number": number}) as cost:
        cost.work = work
    (path,) = {*folder.glob("*.json")} - before
    write_json(path, read_json(path) | {"seconds": seconds})


def test_where_nothing_is_known_nothing_is_said(job):
    found = of(job)
    assert (found.trainings, found.seconds) == (5, {})
    first, second, third = estimate_lines(found)
    assert first == "trainings: 5 (if the cache has none of them)"
    assert second.startswith("time: not known before the first steps")
    assert third.startswith("memory: at most about 0.6 GB, with 6 rows in a forward pass of a training; ")


def test_the_time_follows_from_what_earlier_trainings_took(job):
    """Two trainings of 300 units took 9 s: 0.03 s a unit; a reading of 10 took 1 s.

    Three specialists of 3 steps of 6 rows pass 3 * 3 * 6 * 45 units, the generalist of 4 steps 3 * 4 * 6 * 15 units.
    Each table is read by the reference policy and by one specialist; validation rows after 4 steps, test rows at the
    end: 2 * (40 + 8 + 8) + 8 + 8 rows of each task.
    """
    put(job, 1, 3.0, training=100.0)
    put(job, 2, 6.0, training=200.0)
    put(job, 3, 1.0, reading=10.0)
    assert speeds(job) == {TRAINING: (pytest.approx(0.03), 2), READING: (pytest.approx(0.1), 1)}
    found = of(job)
    reading = {"specialists": 56 * ALL, "generalist": 8 * ALL, "reading and evaluation": (56 + 8) * ALL}
    assert found.seconds["specialists"] == pytest.approx(0.03 * 9 * 6 * ALL + 0.1 * reading["specialists"])
    assert found.seconds["generalist"] == pytest.approx(0.03 * 12 * 6 * ALL / 3 + 0.1 * reading["generalist"])
    assert found.seconds["reading and evaluation"] == pytest.approx(0.1 * reading["reading and evaluation"])
    assert [*found.seconds] == ["reference", "reading and evaluation", "specialists", "generalist"]
    assert "by 3 trainings and readings of this model before, kept in the cache" in estimate_lines(found)[1]


def test_another_model_or_adapter_says_nothing_of_this_one(job):
    put(job, 1, 3.0, training=100.0)
    plain = job.settings.plain
    for other in ({"model": {**plain["model"], "seed": 1}}, {"lora": {"r": 4}}):
        assert speeds(replace(job, settings=replace(job.settings, plain={**plain, **other}))) == {}
    (job.cache / "costs" / "broken.json").write_text("{")
    assert speeds(job)


def test_a_plan_of_several_processes_takes_the_speeds_of_as_many(tiny, tmp_path, monkeypatch):
    several = tiny("trainer=ddp", "trainer.devices=2", f"cache_dir={tmp_path}")
    job = prepare(compose_settings(several))
    with monkeypatch.context() as patch:
        patch.setattr("mixalign.frozen.costs.world", lambda: 2)  # as in a run
        put(job, 1, 3.0, training=100.0)
    assert of(job).seconds
    assert speeds(job) == {}


def test_what_is_not_known_is_named_and_left_out(job, tiny, tmp_path):
    put(job, 1, 3.0, training=100.0)
    rounds = prepare(compose_settings(tiny("mixer=ideal", "objective=sft", f"cache_dir={tmp_path}")))
    found = of(rounds)
    assert found.unknown == ["influence"]
    assert "without influence (not known before the first): " in estimate_lines(found)[1]


def test_a_few_steps_are_timed_and_nothing_is_left_of_them(job):
    before = sorted(job.cache.rglob("*"))
    found = timed(job)
    assert sorted(job.cache.rglob("*")) == before
    assert found.speeds[TRAINING] > 0
    assert re.fullmatch(r"3 steps of 6 rows that took \d+\.\d s now", found.text)
    plan = estimate(job, job.settings.mixer.for_run(job.tasks, job.steps), True, found)
    assert plan.trainings == 5
    assert estimate_lines(plan)[0] == "trainings: 5 (what the cache has is left out)"
    assert {*plan.seconds} == {"reference", "reading and evaluation", "specialists", "generalist"}


@pytest.mark.parametrize("lora", [None, LoRA(r=2)])
def test_memory_of_a_model_is_known_without_its_weights(job, tmp_path, lora):
    folder = tmp_path / "model"
    TinyLlama(hidden_size=16, num_layers=2, num_heads=2, intermediate_size=32).build().save_pretrained(folder)
    source = Pretrained(str(folder))
    shapes = shapes_of(source)
    job = replace(job, settings=replace(job.settings, lora=lora))
    with_weights, without = need_of(job, Shapes.of(source.build())), need_of(job, shapes)
    assert (with_weights.peak, with_weights.rows) == (without.peak, without.rows)


def test_a_plan_needs_no_attention_of_a_gpu_nor_a_model_that_can_be_made_without_numbers(job, tmp_path, monkeypatch):
    folder = tmp_path / "model"
    TinyLlama(hidden_size=16, num_layers=1, num_heads=2, intermediate_size=32).build().save_pretrained(folder)
    assert shapes_of(Pretrained(str(folder), attn_implementation="flash_attention_2")) is not None

    def refused(*_, **__):
        raise NotImplementedError("Cannot copy out of meta tensor; no data!")

    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_config", refused)
    assert shapes_of(Pretrained(str(folder))) is None


def test_weights_in_4_bits_are_not_guessed_at():
    assert shapes_of(Pretrained("somewhere", load_in_4bit=True)) is None
    assert estimate_lines(Estimate(1))[2] == "memory: not known before the model is loaded"
