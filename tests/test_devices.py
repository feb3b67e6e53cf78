"""What must hold on the best device that there is: a GPU where one is at hand, else this processor."""

import json
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from mixalign.data.batches.collate import collate
from mixalign.data.batches.pack import pack
from mixalign.data.dataset import TaskDataset
from mixalign.frozen.score import score_rows
from mixalign.influence.benefit import measure
from mixalign.influence.settings import Influence, Reading
from mixalign.models.forward import score_completions
from mixalign.models.load import LoRA, add_lora
from mixalign.models.precision import autocast
from mixalign.objectives.dpo import DPO
from mixalign.objectives.sft import SFT
from mixalign.types import TokenRow, on_device
from tests.tiny_runs import train_from_overrides

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
ACCELERATOR = "gpu" if DEVICE.type == "cuda" else "cpu"
VOCABULARY = 200
LENGTHS = [(30, 40, 25), (150, 20, 90), (1, 1, 1), (0, 60, 5), (7, 128, 129)]  # prompt, chosen, rejected
EXACT = "32-true"


@pytest.fixture(autouse=True)
def _float32():
    """Products of float32 are those of float32, also on a GPU that could round them to fewer bits."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision(before)


def llama(lora=False):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=False,
    )
    model = LlamaForCausalLM(config)
    for weight in model.parameters():
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=0.1)
    if lora:
        model = add_lora(model, LoRA(r=4))
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=0.1)
    return model


def table(num_completions=2, seed=0):
    rng = np.random.default_rng(seed)
    rows = []
    for number, (prompt, *sizes) in enumerate(LENGTHS):
        completions = [rng.integers(3, VOCABULARY, n) for n in sizes[:num_completions]]
        marks = [np.ones(len(c), bool) for c in completions]
        for mark in marks:
            mark[0] = prompt > 0  # nothing predicts the first token of a row without a prompt
        words = rng.integers(3, VOCABULARY, prompt)
        rows.append(TokenRow(row_id=number, prompt=words, completions=completions, supervised=marks))
    made = TaskDataset.from_rows("task", rows, num_completions)
    if num_completions == 2:
        made.attach("reference_logp", -rng.random((len(made), 2)) * 100)
    return made


def loss_and_gradients(layout, objective, rows, lora, where, precision=EXACT):
    model = llama(lora).to(where)
    batch = on_device(layout([rows], np.zeros(len(rows), int), np.arange(len(rows))), where)
    with autocast(where, precision):
        loss = objective(model, batch)["loss"].mean()
    loss.backward()
    named = [(n, p.grad.cpu()) for n, p in model.named_parameters() if p.grad is not None]
    return loss.item(), dict(named)


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("kind", ["dpo", "sft"])
def test_packed_rows_on_the_device_have_the_loss_and_gradients_of_padded_ones_on_a_cpu(kind, lora):
    objective, rows = (DPO(beta=0.05), table()) if kind == "dpo" else (SFT(), table(1))
    loss, gradients = loss_and_gradients(pack, objective, rows, lora, DEVICE)
    wanted, expected = loss_and_gradients(collate, objective, rows, lora, torch.device("cpu"))
    assert loss == pytest.approx(wanted, rel=1e-4)
    assert {*gradients} == {*expected}
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-3, atol=1e-5 * float(expected[name].abs().max()))


def test_bfloat16_on_the_device_is_near_float32():
    rows = table()
    loss, gradients = loss_and_gradients(pack, DPO(beta=0.05), rows, False, DEVICE, "bf16-mixed")
    wanted, expected = loss_and_gradients(pack, DPO(beta=0.05), rows, False, DEVICE)
    assert loss != wanted
    assert loss == pytest.approx(wanted, rel=0.05)
    a, b = (torch.cat([x.flatten().float() for x in found.values()]) for found in (gradients, expected))
    assert torch.nn.functional.cosine_similarity(a, b, dim=0) > 0.99


def test_the_head_on_completions_gives_the_log_probabilities_of_all_logits():
    rows, model = table(1), llama().to(DEVICE)
    batch = on_device(collate([rows], np.zeros(len(rows), int), np.arange(len(rows))), DEVICE)
    with torch.no_grad():
        logits = model(batch["input_ids"]).logits.float().log_softmax(-1).flatten(0, 1)
        wanted_N = logits[batch["predict_N"], batch["target_N"]]
        wanted_B = torch.zeros(len(rows), device=DEVICE).index_add(0, batch["sequence_N"], wanted_N)
        found_B = score_completions(model, batch).logp_BS[:, 0].float()
    torch.testing.assert_close(found_B, wanted_B, rtol=1e-4, atol=1e-3)


def test_the_head_of_cut_cross_entropy_gives_what_ours_gives():
    if DEVICE.type != "cuda" or find_spec("cut_cross_entropy") is None:
        pytest.skip("cut-cross-entropy's kernels are for GPUs")
    from mixalign.models.head import use_head

    rows, model = table(), llama().to(DEVICE)
    batch = on_device(pack([rows], np.zeros(len(rows), int), np.arange(len(rows))), DEVICE)
    found = {}
    for head in ("chunked", "cce"):
        use_head(head)
        with torch.no_grad(), autocast(DEVICE, "bf16-mixed"):
            found[head] = score_completions(model, batch).logp_BS
    use_head("chunked")
    torch.testing.assert_close(found["cce"], found["chunked"], rtol=0.02, atol=0.5)


def test_scores_of_the_device_are_those_of_a_cpu():
    found, wanted = (
        score_rows(llama().to(where), table(), {}, 3, pack, EXACT).logp_NS for where in (DEVICE, torch.device("cpu"))
    )
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("curvature", ["identity", "kfac", "ekfac"])
def test_influence_on_the_device_is_that_of_a_cpu(curvature):
    """With the labels of the data: those that are drawn depend on the device's random numbers."""
    influence = Influence(curvature, "empirical", bootstrap=10)
    found, wanted = (
        measure(llama().to(where), SFT(), [table(1), table(1, 1)], [table(1, 2)], influence, Reading(3, pack))
        for where in (DEVICE, torch.device("cpu"))
    )
    np.testing.assert_allclose(found.product_K, wanted.product_K, rtol=0.02)


@pytest.mark.parametrize("precision", [EXACT, "bf16-mixed"])
def test_influence_with_drawn_labels_is_finite_on_the_device(precision):
    found = measure(
        llama().to(DEVICE), SFT(), [table(1), table(1, 1)], [table(1, 2)], Influence(), Reading(3, pack, precision)
    )
    assert np.isfinite(found.product_K).all()


@pytest.mark.long
@pytest.mark.parametrize("lora", ["none", "default"])
def test_a_run_that_was_cut_off_on_the_device_ends_like_an_undisturbed_one(tiny, tmp_path, power_cut, lora):
    bits = "trainer.deterministic=true"
    given = tiny("mixer=ama_s", f"lora={lora}", "engine.layout=packed", "steps=6", "save_every=1", bits)
    given = [*given, f"trainer.accelerator={ACCELERATOR}", "trainer.devices=1", f"cache_dir={tmp_path / 'cache'}"]
    train_from_overrides(given, str(tmp_path / "calm"))
    with power_cut(3):
        train_from_overrides(given, str(tmp_path / "run"))
    train_from_overrides(given, str(tmp_path / "run"))
    for name in ("mix.jsonl", "eval.json"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "calm" / name).read_bytes(), name
    assert json.loads((tmp_path / "run/eval.json").read_text())["steps"] == 6


@pytest.mark.long
def test_sharded_weights_on_one_device_train(tiny, tmp_path):
    given = tiny("mixer=uniform", "trainer=fsdp2", "trainer.devices=1", "average_last=null", "export=last")
    train_from_overrides([*given, f"trainer.accelerator={ACCELERATOR}"], str(tmp_path / "run"))
    assert (tmp_path / "run/model/model.safetensors").is_file()
