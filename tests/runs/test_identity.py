"""A run goes on, is finished and is measured with the rows and the base model that it began with, and no others."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from mixalign.config.compose import compose_settings
from mixalign.errors import MixalignError
from mixalign.jobs.job import prepare, rows_fingerprint
from mixalign.merging.methods import Merge
from mixalign.merging.runs import run as merge
from mixalign.models.tiny import TinyLlama
from mixalign.runs.identity import check_identity, write_identity
from mixalign.runs.origin import IDENTITY
from mixalign.sharing.voices import start_of_run
from mixalign.verbs.evaluate import run as evaluate
from tests.tiny_runs import QUIET, train_from_overrides

SPLITS = {"train": 12, "validation": 4, "test": 4}


def write_rows(path: Path, number: int, word: str = "row") -> None:
    turns = [
        [{"role": "user", "content": f"{word} {n}?"}, {"role": "assistant", "content": f"{n}."}] for n in range(number)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"messages": one}) + "\n" for one in turns))


def write_model(folder: Path, seed: int = 0) -> None:
    tiny = TinyLlama(hidden_size=16, num_layers=1, num_heads=2, intermediate_size=32, seed=seed)
    tiny.build().save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)


@dataclass
class Own:
    """Rows and a model of one's own, and a run on them."""

    root: Path

    def overrides(self, *more: str) -> list[str]:
        places = [
            f"data.root={self.root / 'tasks'}",
            f"model.path={self.root / 'model'}",
            f"cache_dir={self.root / 'cache'}",
        ]
        short = ["steps=4", "val_every=2", "batch_size=4", "data.max_length=64", "specialists.steps=2"]
        kinds = ["data=local", "model=pretrained", "objective=sft", "mixer=uniform", "specialists.train=never"]
        return [*kinds, *places, *short, *QUIET, *more]

    def train(self, *more: str) -> dict:
        return train_from_overrides(self.overrides(*more), str(self.root / "run"))

    def split(self, task: str, split: str) -> Path:
        return self.root / "tasks" / task / f"{split}.jsonl"


def make(root: Path) -> Own:
    own = Own(root)
    for task in ("math", "safe"):
        for split, number in SPLITS.items():
            write_rows(own.split(task, split), number, f"{task} {split}")
    write_model(root / "model")
    return own


@pytest.fixture
def own(tmp_path) -> Own:
    return make(tmp_path)


def edit(own: Own) -> None:
    path = own.split("math", "train")
    path.write_text(path.read_text().replace("3.", "4."))


def grow(own: Own) -> None:
    write_rows(own.split("safe", "validation"), 5, "safe validation")


def reorder(own: Own) -> None:
    path = own.split("math", "test")
    path.write_text("".join(reversed(path.read_text().splitlines(keepends=True))))


def drop(own: Own) -> None:
    shutil.rmtree(own.split("safe", "train").parent)


def lose(own: Own) -> None:
    own.split("math", "test").unlink()


def change_template(own: Own) -> None:
    path = own.root / "model" / "chat_template.jinja"
    path.write_text(path.read_text().replace("<|assistant|>", "<|bot|>"))


def change_weights(own: Own) -> None:
    write_model(own.root / "model", seed=1)


CHANGES: dict[Callable[[Own], None], list[str]] = {
    edit: ["task `math` (train) has other rows than when this run began. Restore the rows"],
    grow: ["task `safe` (validation) has other rows than when this run began (4 then, 5 now)"],
    reorder: ["task `math` (test) has other rows"],
    drop: ["task `safe` is gone"],
    lose: ["task `math` (test) has other rows"],
    change_template: [
        "task `math` (train) has other rows",
        "The tokenizer's chat template is another one.",
        "2 tables more",
    ],
    change_weights: [
        "The weights or the configuration of `model.path=",
        "are others than when the run began",
        "Restore the model",
    ],
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Own:
    own = make(tmp_path_factory.mktemp("trained"))
    own.train()
    return own


@pytest.mark.long
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_finished_run_is_of_its_rows_and_its_model(trained, tmp_path, change):
    own, run = Own(tmp_path / "copy"), tmp_path / "copy" / "run"
    shutil.copytree(trained.root, own.root)
    config = run / "config.yaml"
    config.write_text(config.read_text().replace(str(trained.root), str(own.root)))
    before = (run / "eval.json").read_bytes()
    assert own.train() == json.loads(before)  # moved with all its files, it is finished
    change(own)
    for again in (own.train, lambda: evaluate(run, "validation")):
        with pytest.raises(MixalignError) as caught:
            again()
        assert all(part in str(caught.value) for part in CHANGES[change]), caught.value
    assert "identity.json to have the model measured" in str(caught.value)
    assert (run / "eval.json").read_bytes() == before
    (run / IDENTITY).unlink()  # as an older version leaves it
    assert own.train() == json.loads(before)
    evaluate(run, "validation")


@pytest.mark.long
@pytest.mark.parametrize("change", [edit, change_template, change_weights], ids=lambda change: change.__name__)
@pytest.mark.parametrize("more", [(), ("lora=default",)], ids=["full", "lora"])
def test_an_interrupted_run_goes_on_with_its_rows_and_its_model(own, power_cut, change, more):
    with power_cut(3):
        own.train(*more)
    shutil.copytree(own.root, own.root / "copy", ignore=shutil.ignore_patterns("cache", "copy"))
    change(own)
    with pytest.raises(MixalignError) as caught:
        own.train(*more)
    assert str(caught.value).endswith("or give another `run_dir`.")
    assert all(part in str(caught.value) for part in CHANGES[change])
    assert not (own.root / "run" / "eval.json").exists()
    for kept in ("tasks", "model"):
        shutil.copytree(own.root / "copy" / kept, own.root / kept, dirs_exist_ok=True)
    own.train(*more)


def test_a_run_of_an_older_version_goes_on_and_has_an_identity_from_then_on(own, power_cut):
    with power_cut(3):
        own.train()
    (own.root / "run" / IDENTITY).unlink()
    edit(own)
    own.train()
    assert (own.root / "run" / IDENTITY).is_file()
    grow(own)
    with pytest.raises(MixalignError, match=r"task `safe` \(validation\) has other rows"):
        own.train()


def test_no_reference_is_trained_for_a_run_that_is_refused(own):
    pairs = [json.dumps({"prompt": f"{n}?", "chosen": f"{n}.", "rejected": "no."}) + "\n" for n in range(12)]
    for split, number in SPLITS.items():
        for task in ("math", "safe"):
            own.split(task, split).write_text("".join(pairs[:number]).replace("?", f" {task} {split}?"))
    overrides = ("objective=dpo", "reference.sft_steps=2")
    own.train(*overrides)
    change_weights(own)
    with pytest.raises(MixalignError, match="The weights or the configuration of"):
        own.train(*overrides)
    assert len(list((own.root / "cache" / "reference").iterdir())) == 1


def test_tasks_keep_their_order(trained, tmp_path):
    """All that a checkpoint knows of tasks is by number."""
    job = prepare(compose_settings(trained.overrides()))
    (tmp_path / "config.yaml").touch()
    write_identity(tmp_path, job)
    check_identity(tmp_path, job)
    path = tmp_path / IDENTITY
    found = json.loads(path.read_text())
    found["tasks"] = found["tasks"][::-1]
    path.write_text(json.dumps(found))
    with pytest.raises(MixalignError, match=r"another order than when the run in .* began: math, safe; .* safe, math"):
        check_identity(tmp_path, job)
    del found["tasks"]  # as an older version leaves it
    found["rows"] = dict(reversed(found["rows"].items()))
    path.write_text(json.dumps(found))
    with pytest.raises(MixalignError, match="another order"):
        check_identity(tmp_path, job)
    path.write_text("{}")
    for read in (lambda: check_identity(tmp_path, job), lambda: start_of_run(tmp_path, job.settings)):
        with pytest.raises(MixalignError, match=r"identity.json is damaged: it has no `base`"):
            read()


def test_other_versions_of_libraries_are_named(trained, tmp_path):
    job = prepare(compose_settings(trained.overrides()))
    (tmp_path / "config.yaml").touch()
    write_identity(tmp_path, job)
    path = tmp_path / IDENTITY
    found = json.loads(path.read_text())
    found["versions"]["tokenizers"] = "0.1"
    path.write_text(json.dumps(found))
    check_identity(tmp_path, job)
    found["rows"]["math"]["train"]["fingerprint"] = "0"
    path.write_text(json.dumps(found))
    with pytest.raises(MixalignError, match=r"Versions: tokenizers 0.1 then, [\d.]+ now"):
        check_identity(tmp_path, job)


def test_target_tables_are_part_of_it(own):
    write_rows(own.root / "aim.jsonl", 5, "aim")
    target = f"data.target.aim.path={own.root / 'aim.jsonl'}"
    own.train(target)
    write_rows(own.root / "aim.jsonl", 5, "other")
    with pytest.raises(MixalignError, match=r"task `aim` \(target\) has other rows"):
        own.train(target)


@pytest.mark.long
def test_a_checkpoint_goes_on_from_other_rows_but_not_from_another_model(own, trained, caplog):
    resume = f"resume={trained.root / 'run' / 'checkpoints' / 'last.ckpt'}"
    model = f"model.path={trained.root / 'model'}"  # the path is compared as it is written
    write_rows(own.split("math", "train"), 13)
    own.train(resume, model, "steps=6")
    assert caplog.text.count("goes on, though task `math` (train) has other rows") == 1
    more = "data.tasks.math.max_rows=13"  # an entry for one task of a folder; the run has them all
    train_from_overrides(own.overrides(resume, model, "steps=6", more), str(own.root / "one_entry"))
    caplog.clear()
    write_rows(own.split("further", "train"), 9, "further")
    with pytest.raises(MixalignError, match="The checkpoint is of other tasks than this training: `further` new"):
        train_from_overrides(own.overrides(resume, model, "steps=6"), str(own.root / "further"))
    assert "goes on, though" not in caplog.text
    shutil.rmtree(own.split("further", "train").parent)
    folder = trained.root / "run" / IDENTITY
    kept = folder.read_text()
    folder.write_text(kept.replace(json.loads(kept)["base"], "0" * 16))
    with pytest.raises(MixalignError, match=r"`resume=.*` cannot go on: The weights or the configuration of"):
        train_from_overrides(own.overrides(resume, model, "steps=6"), str(own.root / "other"))
    folder.write_text(kept)


def test_merges_are_searched_on_the_rows_of_the_run(trained, tmp_path):
    own = Own(tmp_path / "copy")
    shutil.copytree(trained.root, own.root)
    config = own.root / "run" / "config.yaml"
    config.write_text(config.read_text().replace(str(trained.root), str(own.root)))
    grow(own)
    with pytest.raises(MixalignError, match=r"task `safe` \(validation\) has other rows .* or delete .*identity.json"):
        merge([own.root / "run"], Merge("linear"), out=tmp_path / "merge", search=own.root / "run")


def test_the_identity_is_that_of_every_table(trained):
    job = prepare(compose_settings(trained.overrides()))
    found = json.loads((trained.root / "run" / IDENTITY).read_text())
    assert list(found["rows"]) == job.tasks
    for number, split, table in job.all_datasets:
        entry = found["rows"][job.tasks[number]][split]
        tokens = int(table.length_N.sum())
        assert entry == {"rows": len(table), "tokens": tokens, "fingerprint": rows_fingerprint([table])}
    assert len(found["base"]) == 16
