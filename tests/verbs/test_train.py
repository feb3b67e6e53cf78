"""A run fills its folder, and what is in it agrees: the model, its losses, the history, the settings."""

import csv
import json
from pathlib import Path

import pytest
import torch
import yaml
from torch.nn.functional import cross_entropy, logsigmoid
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.models.llama.modeling_llama import LlamaModel

from mixalign.config.compose import CONF, compose_settings
from mixalign.data.generated import generate
from mixalign.frozen.policy import reference_policy
from mixalign.jobs.job import prepare

TASKS = ["helpful", "reverse", "compare"]
MIXERS = sorted(path.stem for path in (CONF / "mixer").glob("*.yaml"))
ABOUT = {"rows", "split", "held_out"}
DPO_ROW = ABOUT | {"loss", "start_loss", "accuracy", "margin", "specialist_loss", "gap", "excess"}
BETA = 0.5


def read(path: Path):
    return json.loads(path.read_text())


def metrics(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def column(run: Path, name: str) -> list[float]:
    return [float(line[name]) for line in metrics(run) if line.get(name)]


@torch.no_grad()
def logp(model, tokenizer, prompt: str, answer: str) -> torch.Tensor:
    """log p(answer and EOS | prompt), one log-probability a token, by the model's own forward on one row."""
    start = len(tokenizer(prompt)["input_ids"])
    ids = tokenizer(prompt + answer + tokenizer.eos_token, return_tensors="pt")["input_ids"]
    return -cross_entropy(model(ids).logits[0, start - 1 : -1], ids[0, start:], reduction="none")


def dpo_losses(policy, reference, tokenizer, task: str) -> torch.Tensor:
    """-log sigmoid(beta * (policy's margin - reference's margin)) of each test row (arXiv 2305.18290, eq. 7)."""
    out = []
    for row in generate(task, 8, "test", 0):
        good, bad = (
            logp(policy, tokenizer, row["prompt"], row[side]).sum()
            - logp(reference, tokenizer, row["prompt"], row[side]).sum()
            for side in ("chosen", "rejected")
        )
        out.append(-logsigmoid(BETA * (good - bad)))
    return torch.stack(out)


def sft_losses(policy, tokenizer, task: str) -> torch.Tensor:
    """Mean cross-entropy over the answer's tokens, of each test row."""
    rows = generate(task, 8, "test", 0)
    return torch.stack([-logp(policy, tokenizer, row["prompt"], row["chosen"]).mean() for row in rows])


def test_a_run_fills_its_folder(finished):
    names = {path.name for path in finished.iterdir()}
    files = {"config.yaml", "metrics.csv", "mix.jsonl", "mixture.json", "eval.json"}
    assert files | {"checkpoints", "model"} <= names
    assert not [name for name in names if name.startswith(".")]  # no half-written file
    assert (finished / "checkpoints" / "last.ckpt").is_file()


def test_the_saved_config_is_plain_and_complete(finished):
    text = (finished / "config.yaml").read_text()
    config = yaml.safe_load(text)  # refuses Python objects
    assert "${" not in text
    assert config["steps"] == 4
    assert config["val_every"] == 1  # a tenth of four steps, at least one
    assert config["objective"]["beta"] == BETA
    assert config["optimizer"]["lr"] == pytest.approx(4e-4)
    assert [task for task, entry in config["data"]["tasks"].items() if entry] == TASKS


def test_metrics_have_every_task_and_the_worst(finished):
    for quantity in ("alpha", "share", "epochs", "eval_excess", "eval_loss", "eval_accuracy", "eval_gap"):
        for task in TASKS:
            assert len(column(finished, f"{quantity}/{task}")) == 4, f"{quantity}/{task}"
    drawn = [json.loads(line)["count"] for line in (finished / "mix.jsonl").read_text().splitlines()]
    for number, task in enumerate(TASKS):  # a task without a sample has no loss
        assert len(column(finished, f"loss/{task}")) == sum(count[number] > 0 for count in drawn)
    total = [sum(row) for row in zip(*(column(finished, f"alpha/{task}") for task in TASKS), strict=True)]
    assert total == pytest.approx([1.0] * 4)
    excess = zip(*(column(finished, f"eval_excess/{task}") for task in TASKS), strict=True)
    assert column(finished, "eval/worst_excess") == pytest.approx([max(row) for row in excess])
    # ten steps of warm-up to 4e-4
    assert column(finished, "train/learning_rate") == pytest.approx([4e-5 * n for n in (1, 2, 3, 4)])


def test_mix_jsonl_has_one_line_an_update(finished):
    lines = [json.loads(line) for line in (finished / "mix.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert set(lines[0]) == {"step", "sample", "loss", "excess", "task_loss", "count"}
    assert lines[0]["sample"] == pytest.approx([1 / 3] * 3)  # AMA-S begins with the uniform mixture
    assert lines[0]["loss"] is None  # and leaves the weights of the losses alone
    for line in lines:
        assert sum(line["count"]) == 6
        assert [x is None for x in line["task_loss"]] == [n == 0 for n in line["count"]]


def test_mixture_json_sums_up_the_history(finished):
    mixture = read(finished / "mixture.json")
    lines = [json.loads(line) for line in (finished / "mix.jsonl").read_text().splitlines()]
    keys = {"tasks", "sample_final", "sample_mean", "loss_final", "loss_mean", "rows_seen", "epochs_seen", "steps"}
    assert set(mixture) == keys | {"reads"}
    assert mixture["reads"] == ["excess_K", "excess_iw_K"]  # by which the report says what moved the mixture
    assert mixture["tasks"] == TASKS
    assert mixture["steps"] == 4
    seen = [sum(line["count"][k] for line in lines) for k in range(3)]
    assert mixture["rows_seen"] == seen
    assert mixture["epochs_seen"] == pytest.approx([n / 40 for n in seen])
    mean = [sum(line["sample"][k] for line in lines) / 4 for k in range(3)]
    assert mixture["sample_mean"] == pytest.approx(mean, abs=1e-7)
    assert sum(mixture["sample_final"]) == pytest.approx(1)
    assert mixture["loss_final"] == mixture["loss_mean"] == [1.0, 1.0, 1.0]


def test_eval_json_has_exactly_the_documented_keys(finished):
    result = read(finished / "eval.json")
    ours = {"mixer", "static", "objective", "seed", "split", "steps", "tasks", "mean", "worst"}
    assert set(result) == ours | {"excess_over", "exported"}
    assert (result["mixer"], result["objective"], result["seed"], result["split"]) == ("ama_s", "dpo", 0, "test")
    assert list(result["tasks"]) == TASKS
    for row in result["tasks"].values():
        assert set(row) == DPO_ROW
        assert row["rows"] == 8
        assert row["gap"] == pytest.approx(row["loss"] - row["specialist_loss"], abs=1e-6)
        assert row["excess"] >= max(row["gap"], 0) - 1e-6
    assert set(result["mean"]) == DPO_ROW - ABOUT
    assert set(result["worst"]) == {"excess", "gap", "loss", "accuracy"}
    for name, worst in result["worst"].items():
        values = {task: row[name] for task, row in result["tasks"].items()}
        assert worst == {
            "task": worst["task"],
            "value": (min if name == "accuracy" else max)(values.values()),
        }
        assert values[worst["task"]] == worst["value"]


def test_the_saved_model_gives_the_losses_of_eval_json(finished, tiny):
    tokenizer = AutoTokenizer.from_pretrained(finished / "model")
    policy = AutoModelForCausalLM.from_pretrained(finished / "model")
    reference = reference_policy(prepare(compose_settings(tiny())))[1].build()  # from the cache
    for task, row in read(finished / "eval.json")["tasks"].items():
        loss_N = dpo_losses(policy, reference, tokenizer, task)
        assert loss_N.mean().item() == pytest.approx(row["loss"], abs=2e-6)
        assert (loss_N < torch.tensor(2.0).log()).float().mean().item() == pytest.approx(row["accuracy"])


@pytest.mark.long
def test_an_sft_run_has_no_margin_and_its_model_gives_its_losses(train):
    run = train("objective=sft", "mixer=ama_s")
    result = read(run / "eval.json")
    assert set(result["tasks"]["helpful"]) == DPO_ROW - {"margin"}
    assert set(result["mean"]) == DPO_ROW - ABOUT - {"margin"}
    policy, tokenizer = (kind.from_pretrained(run / "model") for kind in (AutoModelForCausalLM, AutoTokenizer))
    for task in TASKS:
        loss = sft_losses(policy, tokenizer, task).mean().item()
        assert loss == pytest.approx(result["tasks"][task]["loss"], abs=2e-6)


@pytest.mark.long
def test_an_adapter_run_loads_with_its_base(train, monkeypatch, tmp_path):
    from peft import AutoPeftModelForCausalLM

    run = train("lora=default", "lora.r=2", "optimizer.lr=0.05")
    base = Path(read(run / "model" / "adapter_config.json")["base_model_name_or_path"])
    assert base == run / "base"
    monkeypatch.chdir(tmp_path)  # a model must load from everywhere
    policy = AutoPeftModelForCausalLM.from_pretrained(run / "model")
    reference, tokenizer = AutoModelForCausalLM.from_pretrained(base), AutoTokenizer.from_pretrained(run / "model")
    losses = {task: dpo_losses(policy, reference, tokenizer, task).mean().item() for task in TASKS}
    found = {task: row["loss"] for task, row in read(run / "eval.json")["tasks"].items()}
    assert losses == pytest.approx(found, abs=2e-6)
    assert max(abs(loss - 0.6931) for loss in losses.values()) > 1e-3  # the adapter does something


def test_an_adapter_finds_its_base_also_when_the_cache_is_given_relatively(train, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    run = train("lora=default", "lora.r=2", "mixer=uniform", "specialists.train=never", "cache_dir=near")
    base = Path(read(run / "model" / "adapter_config.json")["base_model_name_or_path"])
    assert base.is_absolute()
    assert (base / "model.safetensors").is_file()


def test_an_adapter_on_random_weights_gets_a_base_on_disk(train):
    run = train("lora=default", "lora.r=2", "objective=sft", "mixer=uniform", "specialists.train=never")
    base = Path(read(run / "model" / "adapter_config.json")["base_model_name_or_path"])
    assert base == run / "base"
    assert (base / "model.safetensors").is_file()


@pytest.mark.long
@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_the_layout_asked_for_reaches_training_and_scoring(train, tmp_path, monkeypatch, layout):
    seen = []
    forward = LlamaModel.forward
    monkeypatch.setattr(LlamaModel, "forward", lambda self, **inputs: seen.append(inputs) or forward(self, **inputs))
    train(f"engine.layout={layout}", f"cache_dir={tmp_path / 'own'}")
    # four tokens are a look at the model's head, and two rows of a pair a look at whether it can be packed
    batches = [inputs for inputs in seen if inputs["input_ids"].shape[0] not in (1, 4) or "segments" in inputs]
    assert batches
    assert {"segments" in inputs for inputs in batches} == {layout == "packed"}


@pytest.mark.parametrize("objective", ["dpo", pytest.param("sft", marks=pytest.mark.long)])
@pytest.mark.parametrize("mixer", MIXERS)
def test_every_mixer_trains(of_mixer, mixer, objective):
    run = of_mixer(mixer, f"objective={objective}")
    result, mixture = read(run / "eval.json"), read(run / "mixture.json")
    assert (result["mixer"], result["objective"]) == (mixer, objective)
    assert mixture["steps"] == 8
    assert sum(mixture["rows_seen"]) == 48
    assert sum(mixture["sample_final"]) == pytest.approx(1)
    assert (run / "model" / "model.safetensors").is_file()


@pytest.mark.long
def test_the_best_checkpoint_is_the_one_with_the_lowest_worst_excess(train):
    # a learning rate so high that the worst task gets worse from some step on
    run = train("optimizer.lr=0.3", "specialists.lr=4e-4", "steps=8", "val_every=1", "optimizer.warmup_steps=0")
    history = column(run, "eval/worst_excess")
    saved = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["callbacks"]
    (keeper,) = (state for state in saved.values() if state.get("monitor") == "eval/worst_excess")
    best = 1 + history.index(min(history))
    assert best < 8, "the last step is the best one, so the test would show nothing"
    assert keeper["best_model_path"] == f"step{best}.ckpt"
    exported = read(run / "eval.json")["exported"]
    values = exported.pop("candidates")
    assert exported == {"step": best, "monitor": "eval/worst_excess", "value": pytest.approx(min(history))}
    assert values["best"] == exported["value"] <= values["averaged"]
    kept = torch.load(run / "checkpoints" / f"step{best}.ckpt", weights_only=True)["state_dict"]
    policy = AutoModelForCausalLM.from_pretrained(run / "model").state_dict()
    assert all(torch.equal(policy[name.removeprefix("model.")], weight) for name, weight in kept.items())


@pytest.mark.long
def test_export_last_keeps_the_last_weights(train):
    run = train("optimizer.lr=0.3", "specialists.lr=4e-4", "optimizer.warmup_steps=0", "export=last")
    kept = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    policy = AutoModelForCausalLM.from_pretrained(run / "model").state_dict()
    assert all(torch.equal(policy[name.removeprefix("model.")], weight) for name, weight in kept.items())


def test_the_same_seed_gives_the_same_run_and_another_seed_another(train, finished):
    same, other = train(run="same"), train("seed=1", run="other")
    assert (finished / "mix.jsonl").read_text() == (same / "mix.jsonl").read_text()
    assert read(finished / "eval.json") == read(same / "eval.json")
    assert (finished / "mix.jsonl").read_text() != (other / "mix.jsonl").read_text()


def test_an_interrupted_run_goes_on_in_its_folder(train, finished, tmp_path, power_cut):
    with power_cut(3):
        train("val_every=2")
    run = tmp_path / "run"
    assert len((run / "mix.jsonl").read_text().splitlines()) == 3
    last = run / "checkpoints" / "last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == 2
    train("val_every=2", f"resume={last}")
    assert (run / "mix.jsonl").read_text() == (finished / "mix.jsonl").read_text()
    assert read(run / "mixture.json") == read(finished / "mixture.json")
    assert column(run, "train/loss") == column(finished, "train/loss")  # every step once
    assert len(column(run, "eval_loss/reverse")) == 2


def test_epochs_count_rows_of_all_tasks(train):
    run = train("steps=null", "epochs=0.5", "mixer=uniform", "specialists.train=never")
    assert read(run / "mixture.json")["steps"] == 10  # half of 120 rows in batches of 6


STOP_AT_ONCE = (
    "callbacks=early_stopping",
    "callbacks.early_stopping.patience=1",
    "callbacks.early_stopping.min_delta=100",
    "val_every=1",
)


@pytest.mark.long
def test_a_run_that_a_callback_ends_is_finished_and_its_specialists_know_nothing_of_it(train, tmp_path):
    """Nothing falls by 100 nats, so the second validation is the last; three steps of each specialist are made."""
    run = train("mixer=uniform", "steps=8", f"cache_dir={tmp_path / 'cache'}", *STOP_AT_ONCE)
    result = json.loads((run / "eval.json").read_text())
    assert result["steps"] == 2
    assert "excess" in result["mean"], "the monitor asks for specialists"
    costs = json.loads((run / "cost.json").read_text())
    assert costs["steps"] == 2
    for recipe in (tmp_path / "cache" / "specialists").glob("*/recipe.json"):
        assert json.loads(recipe.read_text())["fit"]["steps"] == 3
    assert len([*(tmp_path / "cache" / "specialists").glob("*/model")]) == 3


def test_a_monitor_of_excess_needs_specialists(tiny, refuse):
    message = refuse(tiny("mixer=uniform", "callbacks=early_stopping", "specialists.train=never"))
    assert message.startswith("`callbacks.early_stopping.monitor` needs specialists, but `specialists.train=never`")


OWN_CALLBACK = """
from lightning.pytorch import Callback


class Count(Callback):
    def __init__(self, path):
        self.path = path

    def on_train_end(self, trainer, pl_module):
        with open(self.path, "a") as file:
            file.write(f"{trainer.global_step}\\n")
"""


def test_a_callback_of_ones_own_is_built_by_name(train, tmp_path, monkeypatch):
    (tmp_path / "own_callbacks.py").write_text(OWN_CALLBACK)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("MIXALIGN_TARGETS", "own_callbacks.*")
    node = f"{{_target_: own_callbacks.Count, path: {tmp_path / 'steps'}}}"
    train("mixer=ama_s", f"+callbacks.count={node}")
    assert (tmp_path / "steps").read_text() == "4\n", "of the generalist only"


def test_a_run_that_hardly_moved_the_model_says_so_at_its_end(train, capsys):
    run = train("mixer=uniform", "specialists.train=never", "optimizer.lr=1e-12")
    out = " ".join(capsys.readouterr().out.split())
    assert "The run hardly moved the model: no task's loss is 1% away from its start. Train longer" in out
    assert f"or raise optimizer.lr. run folder: {run}" in out
