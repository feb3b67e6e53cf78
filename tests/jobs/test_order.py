"""A run keeps the order of tasks that it began with, whatever their order is on the command line."""

import json

import pytest

from mixalign.data.batches.module import MixtureData
from mixalign.data.batches.sampler import MixtureSampler
from mixalign.errors import MixalignError
from mixalign.jobs.order import as_begun
from mixalign.mixers.ama_s import AMAS
from mixalign.training.callbacks.mixing import Mixing
from mixalign.verbs.evaluate import run as evaluate
from tests.tiny_runs import HELD_OUT, ROWS, TASKS, train_from_overrides

FILES = ("mix.jsonl", "mixture.json", "eval.json", "metrics.csv", "identity.json", "model/model.safetensors")
NONE = {"mixer": {}, "merge": {}}


@pytest.fixture
def train(tiny_local, tmp_path):
    """Trains on the tasks in an order, and gives the folder."""

    def go(run: str, tasks: tuple[str, ...], *more: str):
        sizes = f"rows: {ROWS}, validation_rows: {HELD_OUT}, test_rows: {HELD_OUT}"
        entries = [f"data.tasks.{task}={{generator: {task}, {sizes}}}" for task in tasks]
        train_from_overrides(tiny_local(*entries, "mixer=ama_s", "val_every=2", *more), str(tmp_path / run))
        return tmp_path / run

    return go


def test_a_run_goes_on_with_its_tasks_in_another_order(train, power_cut):
    calm = train("calm", TASKS)
    with power_cut(3):
        train("run", TASKS)
    run = train("run", TASKS[::-1])
    for name in FILES:
        assert (run / name).read_bytes() == (calm / name).read_bytes(), name
    assert train("run", TASKS[1:] + TASKS[:1]) == run, "finished, in any order"
    config = run / "config.yaml"
    assert config.read_text().replace("/run\n", "/calm\n") == (calm / "config.yaml").read_text()

    result, text = json.loads((run / "eval.json").read_text()), config.read_text()
    start, end = (text.index(f"    {task}:\n") for task in TASKS[:2])
    moved = text[:start] + text[end:].replace("  max_length:", text[start:end] + "  max_length:", 1)
    assert moved != text
    config.write_text(moved)
    evaluate(run, "test")
    assert json.loads((run / "eval_test.json").read_text())["tasks"] == result["tasks"]


@pytest.mark.long
def test_a_checkpoint_is_gone_on_from_with_the_tasks_in_another_order(train, tmp_path, power_cut):
    with power_cut(3):
        train("first", TASKS)
    resume = f"resume={tmp_path / 'first' / 'checkpoints' / 'last.ckpt'}"
    same, other = (train(name, tasks, resume) for name, tasks in (("same", TASKS), ("other", TASKS[::-1])))
    for name in {*FILES} - {"identity.json"}:
        assert (same / name).read_bytes() == (other / name).read_bytes(), name
    first, second = (json.loads((run / "identity.json").read_text()) for run in (same, other))
    assert sorted(first["origin"].pop("overrides")) == sorted(second["origin"].pop("overrides"))
    assert first == second


@pytest.mark.long
@pytest.mark.parametrize("key", ["mixer.wrap.prior", "merge.weights"])
def test_a_list_in_the_order_of_the_tasks_has_no_meaning_in_another(train, power_cut, key):
    weights, what = f"{key}=[1, 2, 3]", ["merge.methods=[linear]"] if key.startswith("merge") else []
    with power_cut(3):
        train("run", TASKS, weights, *what)
    with pytest.raises(MixalignError, match=rf"reverse, helpful, compare; then .* `{key}` is a list .* by task name"):
        train("run", ("reverse", "helpful", "compare"), weights, *what)
    train("run", TASKS, weights, *what)


def test_weights_by_name_have_no_order(train, power_cut):
    prior = "mixer.wrap.prior={helpful: 1, reverse: 2, compare: 3}"
    calm = train("calm", TASKS, prior)
    with power_cut(3):
        train("run", TASKS, prior)
    run = train("run", TASKS[::-1], prior)
    assert (run / "mix.jsonl").read_bytes() == (calm / "mix.jsonl").read_bytes()


@pytest.mark.parametrize(
    "mixer",
    [
        {"weights": [1, 2, 3]},
        {"graph": [[1, 0, 0], [0, 1, 0], [0, 0, 1]]},
        {"phases": [{"until": 0.5, "weights": "uniform"}, {"weights": [1, 2, 3]}]},
    ],
)
def test_every_list_by_task_is_found(mixer):
    begun, given = ["a", "b", "c"], {"b": 1, "a": 0, "c": 2}
    with pytest.raises(MixalignError, match=r"another order .* is a list in the order of the tasks"):
        as_begun(given, begun, {"mixer": mixer, "merge": {}})
    assert [*as_begun(given, ["b", "a", "c"], {"mixer": mixer})] == [*given]
    assert [*as_begun(given, [], {"mixer": mixer})] == [*given]


def test_other_tasks_stay_as_they_are():
    """They are refused by name elsewhere, or begin something new."""
    assert [*as_begun({"b": 1, "a": 0}, ["a", "b"], NONE)] == ["a", "b"]
    assert [*as_begun({"b": 1, "a": 0}, ["a", "b", "c"], NONE)] == ["b", "a"]
    mixer = {"betas": [0.9, 0.99, 0.5], "words": ["x", "y"]}
    assert [*as_begun({"b": 1, "a": 0}, ["a", "b"], {"mixer": mixer})] == ["a", "b"], "lists of another length"


def mixing(*tasks: str) -> Mixing:
    return Mixing(AMAS(), [*tasks], [5] * len(tasks))


class Table:
    def __init__(self, task: str) -> None:
        self.task = task


def data(*tasks: str) -> MixtureData:
    return MixtureData([Table(task) for task in tasks], [], MixtureSampler([5] * len(tasks), 4), 8)


@pytest.mark.parametrize("holder", [mixing, data])
@pytest.mark.parametrize(
    ("tasks", "what"),
    [
        (("a", "c"), "`b` gone and `c` new"),
        (("a",), "`b` gone. It was written with a, b"),
        (("a", "b", "c"), "`c` new"),
        (("b", "a"), r"in another order \(b, a\)"),
    ],
)
def test_a_checkpoint_knows_its_tasks(holder, tasks, what):
    state = holder("a", "b").state_dict()
    holder("a", "b").load_state_dict(state)
    with pytest.raises(MixalignError, match=what):
        holder(*tasks).load_state_dict(state)
    del state["tasks"]  # as an older version leaves it
    holder("a", "b").load_state_dict(state)
