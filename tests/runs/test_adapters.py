"""Kinds of adapters through a whole run: specialists, reference, training, evaluation, merges."""

import json

import pytest

from mixalign.config.compose import compose_settings
from mixalign.errors import MixalignError
from mixalign.runs.check import check_together

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
