"""Bad input on the command line and in configuration files: one clear message, and nothing on disk is harmed.

The corpus goes on, in this process, in test_bad_settings.py, test_bad_rows.py, test_bad_models.py and
test_bad_folders.py.
"""

import json
import shutil
from pathlib import Path

import pytest
import torch

from mixalign.config.compose import compose_config
from mixalign.errors import MixalignError
from mixalign.models.tiny import TinyLlama
from tests.tiny_runs import train_from_overrides

GOOD = [{"prompt": f"q{n}=", "chosen": f"a{n}", "rejected": f"b{n}"} for n in range(20)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Good and bad files, one task each."""
    root = tmp_path_factory.mktemp("rows")
    (root / "good.jsonl").write_text("".join(json.dumps(row) + "\n" for row in GOOD))
    (root / "malformed.jsonl").write_text(json.dumps(GOOD[0]) + '\n{"prompt": oops\n')
    nan_model(root / "nan")
    stale_tables(root)
    return root


def nan_model(folder: Path) -> None:
    """A model that knows no digit: every row of `compare` is NaN, the other tasks have letters only."""
    tiny = TinyLlama(hidden_size=16, num_layers=1, num_heads=2, intermediate_size=32)
    model, tokenizer = tiny.build(), tiny.tokenizer()
    with torch.no_grad():
        model.get_input_embeddings().weight[tokenizer("0123456789", add_special_tokens=False)["input_ids"]] = torch.nan
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def stale_tables(root: Path) -> None:
    """A cache of one small run whose score tables changed places."""
    train_from_overrides(local(root, "mixer=uniform", "specialists.train=never"), str(root / "scored"))
    one, other = sorted((root / "cache" / "scores").iterdir())
    shutil.copy(one, other)


def local(root: Path, *more: str) -> list[str]:
    """A run on one good file."""
    shape = ["model.hidden_size=16", "model.num_layers=1", "model.num_heads=2", "model.intermediate_size=32"]
    short = ["steps=2", "specialists.steps=2", "reference.sft_steps=0", "batch_size=6", "data.max_length=32"]
    quiet = ["progress=false", "trainer.accelerator=cpu", f"cache_dir={root / 'cache'}"]
    return ["data=local", f"data.tasks.good.path={root / 'good.jsonl'}", *shape, *short, *quiet, *more]


SLOW = pytest.mark.slow  # some seconds each; the unmarked ones are enough while working
WITH_CLI = [
    pytest.param(
        ["data.tasks.b.path={root}/gone.jsonl"],
        ["Task `b`", "gone.jsonl does not exist", "Did you mean"],
        id="missing file",
    ),
    pytest.param(["optimizer.lrr=1"], ["optimizer.lrr", "Did you mean `lr`?"], id="misspelt key"),
    pytest.param(
        ["mixer=amas"],
        ["There is no `mixer=amas`", "ama_r", "ama_s", "group_dro", "proportional", "temperature", "uniform"],
        id="unknown mixer",
        marks=SLOW,
    ),
    pytest.param(
        ["data.tasks.b.path={root}/malformed.jsonl"],
        ["Task `b`", "malformed.jsonl, line 2", "not valid JSON", "oops"],
        id="malformed line",
    ),
    pytest.param(
        ["optimizer.lr=100"],
        ["`optimizer.lr` is 100, but must be a number from 0 to 1", "AdamW"],
        id="absurd learning rate",
        marks=SLOW,
    ),
    pytest.param(["logger=null"], ["Config group override must be a string or a list"], id="no group", marks=SLOW),
    pytest.param(
        ["mixer=uniform", "specialists.train=never"],
        ["The score table", "scores", "is stale", "rows: got '", "Delete it"],
        id="stale scores",
        marks=SLOW,
    ),
]


@pytest.mark.long
@pytest.mark.parametrize(("bad", "said"), WITH_CLI)
def test_the_command_line_refuses_bad_input(cli_refuses, folder, finished, tmp_path, bad, said):
    new = [text.format(root=folder) for text in bad]
    run = tmp_path / "run"
    message = cli_refuses("train", *local(folder, *new), f"run_dir={run}", untouched=[folder, finished])
    for part in said:
        assert part in message
    assert not (run / "eval.json").exists()
    assert not (run / "model").exists()


@pytest.mark.long
def test_the_command_line_names_the_task_whose_loss_is_nan(cli_refuses, folder, finished, tmp_path):
    tasks = [f"data.tasks.{t}={{generator: {t}, rows: 40, test_rows: 5}}" for t in ("helpful", "reverse", "compare")]
    settings = ["model=pretrained", f"model.path={folder / 'nan'}", "objective=sft", "mixer=uniform", "data=local"]
    short = ["steps=4", "batch_size=8", "progress=false", "specialists.train=never", f"cache_dir={tmp_path / 'cache'}"]
    run = tmp_path / "run"
    message = cli_refuses("train", *settings, *short, *tasks, f"run_dir={run}", untouched=[folder, finished])
    assert message.startswith("The loss of task `compare` is not finite at step 1.")
    assert "optimizer.lr" in message
    assert not (run / "eval.json").exists()
    assert not (run / "checkpoints" / "last.ckpt").exists()


@pytest.mark.long
def test_a_folder_that_holds_a_run_is_left_alone(cli_refuses, tiny, finished):
    message = cli_refuses("train", *tiny("seed=3"), f"run_dir={finished}", untouched=[finished])
    assert message.startswith(f"{finished} already holds a run with other settings (")
    assert "seed: got 0, wanted 3" in message


@pytest.mark.long
def test_a_run_folder_that_is_a_file(cli_refuses, folder):
    """Hydra makes the folder before any code of ours runs."""
    message = cli_refuses("train", *local(folder), f"run_dir={folder / 'good.jsonl'}", untouched=[folder])
    assert message.startswith(f"{folder / 'good.jsonl'} cannot be used (File exists). Choose another place")


def test_a_key_that_is_twice_in_a_file_is_named(refuse, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine.yaml").write_text("tasks:\n  math: {path: a.jsonl}\n  math: {path: b.jsonl}\n")
    message = refuse([f"hydra.searchpath=[file://{tmp_path}]", "data=mine"])
    assert "duplicate key math" in message
    assert "mine.yaml" in message


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("steps", "Error parsing override 'steps'"),
        ("mixers=ama_s", "Did you mean `mixer`?"),
        ("mixer=", "There is no `mixer=`. Known: ado, "),
        ("experiment=nope", "There is no `experiment=nope`. Known: compare_dpo, "),
        ("logger=null", "cannot be read: Config group override must be a string or a list. Got NoneType"),
        ("data.tasks=[a]", "Cannot merge DictConfig with ListConfig"),
        ("data.taks.a.path=x", "Did you mean `tasks`?"),
        ("steps=[1", "no viable alternative at input '[1'"),
    ],
)
def test_overrides_that_cannot_be_read(override, said):
    with pytest.raises(MixalignError) as caught:
        compose_config([override])
    assert said in str(caught.value)
    assert "Traceback" not in str(caught.value)


def test_a_hub_that_cannot_be_reached(refuse, folder, hub):
    hub.close()
    settings = [text for text in local(folder) if not text.startswith("model.")]
    message = refuse([*settings, "model=pretrained", "model.path=org/name"])
    assert f"config.json of the model org/name was wanted from {hub.url}, which could not be reached" in message
    message = refuse([*local(folder), "data.tasks.good.path=org/set"])
    assert f"README.md of the dataset org/set was wanted from {hub.url}, which could not be reached" in message


def test_a_reference_that_is_not_a_number_names_the_task(tiny, refuse, folder, tmp_path):
    settings = [text for text in tiny() if not text.startswith("model.")]
    path = [f"model.path={folder / 'nan'}", "micro_batch_size=null", f"cache_dir={tmp_path / 'cache'}"]
    message = refuse([*settings, "model=pretrained", *path, "reference.sft_steps=0"])
    assert "`reference_logp` of task `compare` has 80 entries that are not finite" in message


def test_a_folder_that_holds_a_run_is_refused_in_python_too(tiny, refuse, finished):
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    assert "already holds a run" in refuse(tiny("seed=9"), run=finished)
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*")} == before
