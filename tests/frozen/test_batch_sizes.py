"""Rows of a forward pass: by the memory that is free, and the same again when a run goes on."""

import json
import logging

import pytest
import yaml

from mixalign.config.compose import compose_settings
from mixalign.frozen import batch_sizes, trainings
from mixalign.jobs.job import prepare
from mixalign.models.tiny import TinyLlama
from mixalign.training.memory import Footprint
from tests.tiny_runs import train_from_overrides

TINY = TinyLlama(hidden_size=16, num_layers=1, num_heads=2, intermediate_size=32)
GB = 10**9


@pytest.fixture
def free(monkeypatch):
    """Sets the bytes that are free; a row takes about one GB in a training, and a tenth of one when it is read."""
    takes = Footprint(fixed=GB, trained=100, token=GB / 128, read=GB / 1280, head=0)
    monkeypatch.setattr(batch_sizes, "footprint", lambda *_, **__: takes)
    monkeypatch.setattr(batch_sizes, "most_tokens", lambda layout, tables, batch, rows: 128 * rows)
    monkeypatch.setattr(batch_sizes, "tokens_of_longest", lambda layout, tables, rows: 128 * rows)

    def to(number: float | None) -> None:
        monkeypatch.setattr(batch_sizes, "free_memory", lambda device: number)

    return to


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "model"
    TINY.build().save_pretrained(folder)
    TINY.tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def trained(model, tiny, tmp_path):
    """Trains that model on the generated tasks, as one that was trained; gives the sizes of its config.yaml."""

    def go(*more: str, run: str = "run") -> tuple[int | None, int]:
        shape = [text for text in tiny() if not text.startswith(("model.", "reference.", "cache_dir="))]
        own = ["model=pretrained", f"model.path={model}", f"cache_dir={tmp_path / 'cache'}", "batch_size=12"]
        own.append("average_last=null")
        train_from_overrides([*shape, *own, "mixer=uniform", "steps=2", *more], str(tmp_path / run))
        config = yaml.safe_load((tmp_path / run / "config.yaml").read_text())
        return config["micro_batch_size"], config["eval_batch_size"]

    return go


@pytest.mark.long
@pytest.mark.parametrize(
    ("gigabytes", "wanted"),
    [(1000, (12, 64)), (14, (6, 32)), (13, (4, 32)), (7, (2, 16)), (2, (1, 1)), (0, (1, 1)), (None, (4, 8))],
)
def test_rows_by_the_free_memory(trained, free, caplog, gigabytes, wanted):
    caplog.set_level(logging.INFO)
    free(gigabytes and gigabytes * GB if gigabytes is not None else None)
    assert trained() == wanted
    (line,) = [text for text in caplog.messages if "micro_batch_size" in text]
    assert f"micro_batch_size={wanted[0]}, eval_batch_size={wanted[1]} (" in line
    assert ("does not say" in line) if gigabytes is None else (f"free are {gigabytes:.1f}" in line)


@pytest.mark.long
def test_what_is_set_wins(trained, free, caplog):
    caplog.set_level(logging.INFO)
    free(14 * GB)
    assert trained("micro_batch_size=3", run="a") == (3, 32)
    assert trained("eval_batch_size=5", run="b") == (6, 5)
    caplog.clear()
    assert trained("micro_batch_size=null", "eval_batch_size=5", run="c") == (None, 5)
    assert not [text for text in caplog.messages if "memory" in text]


def test_random_weights_keep_what_they_have(train, free):
    free(0)
    config = yaml.safe_load((train("mixer=uniform") / "config.yaml").read_text())
    assert (config["micro_batch_size"], config["eval_batch_size"]) == (None, 256)


@pytest.mark.long
def test_a_run_goes_on_with_the_rows_that_it_began_with(trained, free, tmp_path, monkeypatch):
    free(7 * GB)
    whole = ("steps=4", "save_every=1")
    assert trained(*whole, run="undisturbed") == (2, 16)

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr("mixalign.verbs.train.train_generalist", stop)
        with pytest.raises(BaseException):  # noqa: B017  # however a stop is said
            trained(*whole)
    free(1000 * GB)
    assert trained(*whole) == (2, 16)
    first, second = (json.loads((tmp_path / run / "eval.json").read_text()) for run in ("undisturbed", "run"))
    assert first == second


@pytest.mark.long
def test_other_trainings_have_a_divisor_of_their_own_batch(trained, free, monkeypatch):
    free(14 * GB)
    seen = []
    make = batch_sizes.micro_batch_size
    for place in ("mixalign.frozen.trainings", "mixalign.runs.train_one"):
        monkeypatch.setattr(f"{place}.micro_batch_size", lambda *a: seen.append((a[1], make(*a))) or seen[-1][1])
    trained("specialists.train=always", "specialists.batch_size=10", "specialists.steps=1")
    assert {(10, 5), (12, 6)} == set(seen)


@pytest.mark.parametrize(("world", "wanted"), [(1, 4), (2, 4), (4, None)])
def test_rows_that_processes_do_not_divide_a_small_batch_into_are_left_out(tiny, monkeypatch, world, wanted):
    """`micro_batch_size` is for `batch_size`; 8 rows of a specialist on 4 processes are 2 on each."""
    for place in (batch_sizes, trainings):
        monkeypatch.setattr(place, "world", lambda: world)
    monkeypatch.setattr(trainings, "trainer_options", lambda settings, precision: {})
    job = prepare(compose_settings(tiny("batch_size=32", "micro_batch_size=4")))
    training = trainings.Training("a", job.objective, job.tasks, job.data["train"], 3, 8, 0.1, 0)
    assert trainings._fit_settings(job, training).micro_batch_size == wanted


@pytest.mark.long
@pytest.mark.parametrize(
    ("more", "copies"), [("mixer=pike", 7), ("average_last=auto", 1)], ids=["gradients of tasks", "the mean"]
)
def test_what_is_kept_beside_the_weights_takes_memory(trained, free, monkeypatch, more, copies):
    """Copies of what is trained, 4 bytes a number, that are one GB together."""
    takes = Footprint(fixed=GB, trained=GB // (4 * copies), token=GB / 128, read=0, head=0)
    free(14 * GB)
    monkeypatch.setattr(batch_sizes, "footprint", lambda *_, **__: takes)
    assert trained(run="plain")[0] == 6
    assert trained(more, run="more")[0] == 4
