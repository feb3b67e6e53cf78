"""Bad input: one clear message that names the thing, and nothing on disk is harmed."""

import gzip
import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from mixalign.errors import MixalignError
from mixalign.models.tiny import TinyLlama
from mixalign.pipelines import report
from mixalign.pipelines.api import compose_config, train_from_overrides

GOOD = [{"prompt": f"q{n}=", "chosen": f"a{n}", "rejected": f"b{n}"} for n in range(20)]


def write(path: Path, rows: list[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Good and bad files, one task each."""
    root = tmp_path_factory.mktemp("rows")
    write(root / "good.jsonl", GOOD)
    (root / "malformed.jsonl").write_text(json.dumps(GOOD[0]) + '\n{"prompt": oops\n')
    write(root / "column.jsonl", [{"prompt": "q", "chosen": "a"}] * 5)
    (root / "empty.jsonl").touch()
    write(root / "long.jsonl", [{**row, "prompt": "x" * 50 + row["prompt"]} for row in GOOD])
    write(root / "twins" / "math" / "train.jsonl", GOOD)
    write(root / "twins" / "math.jsonl", GOOD)
    (root / "link.jsonl").symlink_to(root / "good.jsonl")
    (root / "half.jsonl.gz").write_bytes(gzip.compress(json.dumps(GOOD).encode())[:-20])
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


SLOW = pytest.mark.slow  # four seconds each, most of them imports; the unmarked ones are enough while working
WITH_CLI = [
    pytest.param(
        ["data.tasks.b.path={root}/gone.jsonl"],
        ["Task `b`", "gone.jsonl does not exist", "Did you mean"],
        id="missing file",
    ),
    pytest.param(["optimizer.lrr=1"], ["optimizer.lrr", "Did you mean `lr`?"], id="misspelt key"),
    pytest.param(
        ["mixer=amas"],
        ["mixer/amas", "ama_r", "ama_s", "group_dro", "proportional", "temperature", "uniform"],
        id="unknown mixer",
    ),
    pytest.param(
        ["data.tasks.b.path={root}/malformed.jsonl"],
        ["Task `b`", "malformed.jsonl, line 2", "not valid JSON", "oops"],
        id="malformed line",
    ),
    pytest.param(
        ["data.tasks.b.path={root}/column.jsonl"],
        ["Task `b`", "column.jsonl, line 1", "prompt, chosen", "prompt + chosen + rejected"],
        id="missing column",
        marks=SLOW,
    ),
    pytest.param(
        ["data.tasks.b.path={root}/empty.jsonl"],
        ["Task `b` is empty", "empty.jsonl has no rows"],
        id="empty task",
        marks=SLOW,
    ),
    pytest.param(
        ["data.tasks.b.path={root}/link.jsonl"],
        ["Tasks `good` and `b` are duplicates", "link.jsonl"],
        id="duplicate task",
        marks=SLOW,
    ),
    pytest.param(
        ["data.tasks.b.path={root}/long.jsonl"],
        ["Task `b` (train)", "none of its 18 rows", "max_length=32", "the shortest prompt has 54 tokens"],
        id="long prompt",
        marks=SLOW,
    ),
    pytest.param(
        ["mixer=uniform", "specialists.train=never"],
        ["The score table", "scores", "is stale", "rows: got '", "Delete it"],
        id="stale scores",
        marks=SLOW,
    ),
]


@pytest.mark.parametrize(("bad", "said"), WITH_CLI)
def test_the_command_line_refuses_bad_input(cli_refuses, folder, finished, tmp_path, bad, said):
    new = [text.format(root=folder) for text in bad]
    run = tmp_path / "run"
    message = cli_refuses("train", *local(folder, *new), f"run_dir={run}", untouched=[folder, finished])
    for part in said:
        assert part in message
    assert not (run / "eval.json").exists()
    assert not (run / "model").exists()


@pytest.mark.slow
def test_the_command_line_names_the_task_whose_loss_is_nan(cli_refuses, folder, finished, tmp_path):
    tasks = [f"data.tasks.{t}={{generator: {t}, rows: 40, test_rows: 5}}" for t in ("helpful", "reverse", "compare")]
    settings = ["model=pretrained", f"model.path={folder / 'nan'}", "objective=sft", "mixer=uniform", "data=local"]
    short = ["steps=4", "batch_size=8", "progress=false", "specialists.train=never", f"cache_dir={folder / 'cache'}"]
    run = tmp_path / "run"
    message = cli_refuses("train", *settings, *short, *tasks, f"run_dir={run}", untouched=[folder, finished])
    assert message.startswith("The loss of task `compare` is not finite at step 0.")
    assert "optimizer.lr" in message
    assert not (run / "eval.json").exists()
    assert not (run / "checkpoints" / "last.ckpt").exists()


@pytest.mark.slow
def test_a_folder_that_holds_a_run_is_left_alone(cli_refuses, tiny, finished):
    message = cli_refuses("train", *tiny("seed=3"), f"run_dir={finished}", untouched=[finished])
    assert message.startswith(f"{finished} already holds a run with other settings (")
    assert "seed: got 0, wanted 3" in message


def test_a_key_that_is_twice_in_a_file_is_named(refuse, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine.yaml").write_text("tasks:\n  math: {path: a.jsonl}\n  math: {path: b.jsonl}\n")
    message = refuse([f"hydra.searchpath=[file://{tmp_path}]", "data=mine"])
    assert "duplicate key math" in message
    assert "mine.yaml" in message


QUICK = ["objective=sft", "mixer=uniform", "specialists.train=never"]  # nothing is scored before it is refused

NOT_WITH_CLI = {
    "negative eta": (["mixer.eta=-0.1"], "`mixer.eta` is -0.1, but must be a number at least 0"),
    "c above one": (["mixer.c=1.5"], "`mixer.c` is 1.5, but must be a number between 0 and 1"),
    "an eta that is no number": (["mixer.eta=much"], "`mixer.eta` is 'much'"),
    "no beta": (["objective.beta=0"], "`objective.beta` is 0, but must be above 0"),
    "negative beta": (["objective.beta=-1"], "`objective.beta` is -1"),
    "negative beta of one task": (["data.tasks.helpful.objective.beta=-1"], "`objective.beta` is -1.0"),
    "too much smoothing": (["objective.label_smoothing=0.5"], "`objective.label_smoothing` is 0.5"),
    "small batch": (["mixer=ama_r", "batch_size=2"], "`batch_size` is 2 and there are 3 tasks"),
    "empty batch": (["batch_size=0"], "`batch_size` is 0"),
    "uneven micro-batches": (
        [*QUICK, "micro_batch_size=4"],
        "`batch_size` is 6, which `micro_batch_size` 4 on 1 process",
    ),
    "empty evaluation batch": ([*QUICK, "eval_batch_size=0"], "`eval_batch_size` is 0"),
    "no steps": (["steps=0"], "`steps` is 0, but must be a whole number above 0"),
    "half a step": (["steps=2.5"], "`steps` is 2.5, but must be a whole number above 0"),
    "steps in words": (["steps=many"], "`steps` is many, but must be a whole number above 0"),
    "no epochs": (["steps=null", "epochs=0"], "`epochs` is 0, but must be a number above 0"),
    "neither": (["steps=null", "epochs=null"], "`epochs` is None"),
    "no specialist steps": (["specialists.steps=0"], "`specialists.steps` is 0"),
    "no validation": ([*QUICK, "val_every=-1"], "`val_every` is -1"),
    "no log": ([*QUICK, "log_every=0"], "`log_every` is 0"),
    "negative seed": (["seed=-1"], "`seed` is -1"),
    "seed in words": (["seed=one"], "`seed` is 'one'"),
    "negative rate": ([*QUICK, "optimizer.lr=-1"], "`optimizer.lr` is -1"),
    "unknown schedule": (
        [*QUICK, "optimizer.schedule=cosin"],
        "`optimizer.schedule` is 'cosin'. Did you mean `cosine`?",
    ),
    "unknown export": (["export=worst"], "`export` is 'worst'. Known: best, last."),
    "unknown composition": (["composition=mixed"], "`composition` is 'mixed'. Known: multinomial, stratified."),
    "unknown policy": (["specialists.train=maybe"], "`specialists.train` is 'maybe'. Known: auto, always, never."),
    "adapters that are not there": (["reference.mode=adapter_off"], "needs adapters: set `lora=default`"),
    "no checkpoint": (["resume=gone.ckpt"], "`resume=gone.ckpt` is no file"),
    "unknown generator": (["data.tasks.x.generator=helpfull"], "no generator `helpfull`. Did you mean `helpful`?"),
    "no rows": (["data.tasks.helpful.rows=0"], "`data.tasks.helpful.rows` is 0"),
    "misspelt task key": (["data.tasks.helpful.row=3"], "`data.tasks.helpful.row` is not a setting of a task"),
    "unknown task setting": (["data.tasks.helpful.objective.bta=1"], "is no setting of dpo. Did you mean `beta`?"),
    "misspelt group": (["mixers=ama_s"], "Did you mean `mixer`?"),
    "no value": (["steps"], "Error parsing override 'steps'"),
    "no model": (["model.num_heads=2", "model._target_=os.system"], "`_target_: os.system` may not be built"),
}


@pytest.mark.parametrize("case", NOT_WITH_CLI)
def test_settings_that_cannot_be(tiny, refuse, finished, cache, tmp_path, case):
    bad, said = NOT_WITH_CLI[case]
    scores = sorted(path.name for path in (cache / "scores").iterdir())
    message = refuse(tiny(*bad))
    assert said in message
    assert "Traceback" not in message
    assert len(message.splitlines()) <= 3
    assert sorted(path.name for path in (cache / "scores").iterdir()) == scores
    assert not (tmp_path / "refused" / "model").exists()


CHEAP = ["export=worst", "reference.mode=x", "composition=x", "specialists.train=x", "seed=-1", "steps=0"]


@pytest.mark.parametrize("bad", CHEAP)
def test_words_nobody_knows_are_refused_before_anything_is_trained(tiny, refuse, tmp_path, bad):
    refuse(tiny(bad, f"cache_dir={tmp_path / 'none'}"))
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (["data.root={root}/gone"], "does not exist. Set `data.root`"),
        (["data.tasks.good=null", "data.root={root}/twins"], "task `math` is there twice"),
        (["data.tasks.good=null"], "There is no task. Set `data.root`"),
        (["data.tasks.b={{path: '{root}/good.jsonl'}}"], "Tasks `good` and `b` are duplicates"),
        (["data.tasks.b.path={root}/half.jsonl.gz"], "half.jsonl.gz cannot be read"),
        (["data.tasks.good.pth=x"], "`data.tasks.good.pth` is not a setting of a task. Did you mean `path`?"),
        (["data.tasks.good.columns.prompt=question"], "maps `prompt` to `question`"),
        (["data.validation_fraction=0"], "validation fraction is 0"),
    ],
)
def test_rows_that_cannot_be_read(refuse, folder, bad, said):
    assert said in refuse(local(folder, *(text.format(root=folder) for text in bad)))


def test_a_model_that_is_not_there(refuse, folder):
    settings = [text for text in local(folder) if not text.startswith("model.")]
    message = refuse([*settings, "model=pretrained", f"model.path={folder / 'gone'}"])
    assert f"`model.path={folder / 'gone'}` cannot be loaded" in message


def test_a_learning_rate_that_explodes(tiny, refuse, finished, tmp_path):
    rate = ["optimizer.lr=1e30", "mixer=uniform", "specialists.train=never", "optimizer.warmup_steps=0"]
    message = refuse(tiny(*rate))
    assert message.startswith("The loss of task `helpful`, `reverse`, `compare` is not finite at step 1.")
    assert not (tmp_path / "refused" / "model").exists()
    assert len((tmp_path / "refused" / "mix.jsonl").read_text().splitlines()) == 1


def test_a_reference_that_is_not_a_number_names_the_task(tiny, refuse, folder, tmp_path):
    settings = [text for text in tiny() if not text.startswith("model.")]
    path = f"model.path={folder / 'nan'}"
    cache = f"cache_dir={tmp_path / 'cache'}"
    message = refuse([*settings, "model=pretrained", path, "reference.sft_steps=0", cache])
    assert "`reference_logp` of task `compare` has 80 entries that are not finite" in message


def test_a_report_of_a_folder_without_runs(tmp_path):
    with pytest.raises(MixalignError, match="No run found in"):
        report.run([tmp_path])
    with pytest.raises(MixalignError, match="is no folder"):
        report.run([tmp_path / "gone"])
    assert not (tmp_path / "report.html").exists()


def test_a_folder_that_holds_a_run_is_refused_in_python_too(tiny, refuse, finished):
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    assert "already holds a run" in refuse(tiny("seed=9"), run=finished)
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*")} == before


def test_the_saved_config_of_a_good_run_composes_again(finished):
    """What a run wrote is what a user may start from: no key of it is refused."""
    saved = yaml.safe_load((finished / "config.yaml").read_text())
    assert set(saved) == set(compose_config([]))
