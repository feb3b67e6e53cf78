"""Kinds of adapters through a whole run: specialists, reference, training, evaluation, merges."""

import csv
import json
import math

import pytest
import torch

from mixalign.config.compose import compose_settings
from mixalign.errors import MixalignError
from mixalign.models.load import Pretrained
from mixalign.runs.check import check_together
from tests.tiny_runs import QUIET, SHORT, snapshot, train_from_overrides

CALM = (
    "mixer=ama_s",
    "steps=2",
    "val_every=2",
    "optimizer.warmup_steps=0",
    "optimizer.lr=1e-2",
    "lora=default",
    "lora.r=2",
)


@pytest.mark.long
@pytest.mark.parametrize(
    "more",
    [
        ("lora.use_dora=true", "reference.mode=adapter_off"),
        ("lora.modules_to_save=[lm_head]", "reference.mode=adapter_off", "merge.methods=[linear]"),
        ("lora.use_rslora=true", "merge.methods=[linear]"),
    ],
    ids=["dora", "modules_to_save", "rslora"],
)
def test_what_is_saved_is_what_was_measured(train, in_process, more):
    run = train(*CALM, *more)
    before = json.loads((run / "eval.json").read_text())
    code, _, said = in_process("evaluate", run)
    assert code == 0, said
    after = json.loads((run / "eval_test.json").read_text())
    for task, row in before["tasks"].items():
        assert after["tasks"][task]["loss"] == pytest.approx(row["loss"], abs=1e-6)


def test_the_influence_of_what_is_not_called_is_not_measured(tiny, refuse):
    said = refuse(tiny("mixer=ideal", "lora=default", "lora.use_dora=true"))
    assert said.startswith("`lora.use_dora` and `mixer=ideal` do not go together: DoRA reads its factors without")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ([], "`model.load_in_4bit` needs an adapter: weights in 4 bits stay. Set `lora=default`."),
        (["lora=default", "reference.sft_steps=3"], "there is no SFT of it: set `reference.sft_steps=0`."),
    ],
)
def test_weights_in_4_bits_stay(more, said):
    four_bits = ["model=pretrained", "model.path=x", "model.load_in_4bit=true", "data=local"]
    with pytest.raises(MixalignError) as caught:
        check_together(compose_settings([*four_bits, *more]))
    assert str(caught.value).endswith(said)


@pytest.fixture(scope="module")
def first(tiny, tmp_path_factory):
    """The adapter of a finished run."""
    run = tmp_path_factory.mktemp("first") / "run"
    train_from_overrides(tiny(*CALM, "mixer=uniform", "specialists.train=never"), str(run))
    return run / "model"


@pytest.fixture
def go_on(first, tmp_path):
    """Trains on from the first run's adapter, with a cache of its own; gives the run's folder."""
    rows = [{"prompt": f"say {n}", "chosen": f"{n}", "rejected": f"{n + 1}"} for n in range(24)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "b.jsonl").write_text("\n".join(json.dumps(row | {"chosen": "b"}) for row in rows))
    data = ["data=local", *(f"data.tasks.{task}.path={tmp_path / task}.jsonl" for task in "ab")]
    begun = [
        *data,
        "model=pretrained",
        f"model.path={first}",
        f"cache_dir={tmp_path / 'cache'}",
        "reference.sft_steps=0",
    ]

    def go(run, *more, lora=("lora=default", "lora.r=2")):
        train_from_overrides([*SHORT, *QUIET, *CALM[:-2], *begun, *lora, *more], str(tmp_path / run))
        return tmp_path / run

    return go


def logits(model):
    with torch.no_grad():
        return model.eval()(torch.arange(3, 13)[None]).logits


@pytest.mark.long
def test_a_run_goes_on_from_an_adapter(go_on, first, tmp_path):
    """The reference policy is the model at the start; specialists begin there too, and mixers share them."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    run = go_on("run")
    step = next(csv.DictReader((run / "metrics.csv").read_text().splitlines()))
    assert float(step["train/loss"]) == pytest.approx(math.log(2), abs=1e-5)
    base = AutoModelForCausalLM.from_pretrained(first.parent / "base")
    start = logits(PeftModel.from_pretrained(base, first))
    base = AutoModelForCausalLM.from_pretrained(run / "base")
    assert torch.allclose(logits(base), start, atol=1e-5)
    moved = logits(PeftModel.from_pretrained(base, run / "model"))
    assert not torch.allclose(moved, start, atol=1e-4)
    assert torch.allclose(logits(Pretrained(str(run / "model")).build()), moved, atol=1e-5)

    made = snapshot(tmp_path / "cache" / "specialists", tmp_path / "cache" / "reference")
    go_on("other", "mixer=ama_r", "merge.methods=[linear]")
    assert snapshot(tmp_path / "cache" / "specialists", tmp_path / "cache" / "reference") == made
    assert json.loads((tmp_path / "other_merge_linear" / "eval.json").read_text())["mixer"] == "merge_linear"


@pytest.mark.long
@pytest.mark.parametrize(("lora", "name"), [(CALM[-2:], "adapter_model.safetensors"), ((), "model.safetensors")])
def test_it_resumes_to_the_same_bits(go_on, caplog, lora, name):
    more = ("specialists.train=never", "mixer=uniform", "export=last")
    whole = go_on("whole", *more, "steps=4", lora=lora)
    assert ("is an adapter, and the run begins at one model of it and its base: all weights" in caplog.text) is (
        not lora
    )
    go_on("parts", *more, lora=lora)
    parts = go_on("parts", *more, "steps=4", lora=lora)
    assert (whole / "model" / name).read_bytes() == (parts / "model" / name).read_bytes()
