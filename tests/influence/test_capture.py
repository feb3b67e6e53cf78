"""Gradients from hooks against autograd, one sample at a time."""

import numpy as np
import pytest
import torch
from torch import nn

from mixalign.data.batches.collate import collate
from mixalign.data.batches.pack import pack
from mixalign.errors import MixalignError
from mixalign.influence.capture import at_rest, observe, spans
from mixalign.influence.layers import chosen_layers
from mixalign.objectives.dpo import DPO
from mixalign.objectives.sft import SFT

OBJECTIVES = {"sft": (SFT(), 1), "dpo": (DPO(beta=0.7), 2)}
LAYOUTS = {"padded": collate, "packed": pack}


def sample_gradients(layers, batch, loss):
    """(B, O, I) a layer, from hooks."""
    out = {}

    def each(name, x_PI, delta_PO):
        out[name] = torch.stack([delta_PO[s].t() @ x_PI[s] for s in spans(batch)])

    observe(layers, batch, [(loss, each)])
    return out


def whole(layout, dataset):
    return layout([dataset], np.zeros(len(dataset), int), np.arange(len(dataset)))


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", OBJECTIVES)
def test_hooks_see_the_gradient_of_every_sample(table, llama, name, layout, lora):
    objective, num_completions = OBJECTIVES[name]
    dataset, model = table(num_completions=num_completions), llama(lora, torch.float64).eval()
    batch, layers = whole(LAYOUTS[layout], dataset), chosen_layers(model)
    assert len(layers) == (14 if lora else 7)
    with at_rest(model):
        ours = sample_gradients(layers, batch, lambda: objective(model, batch)["loss"])
    for b, loss in enumerate(objective(model, batch)["loss"]):
        wanted = torch.autograd.grad(loss, [x.weight for x in layers.values()], retain_graph=True)
        for layer, gradient in zip(layers, wanted, strict=True):
            torch.testing.assert_close(ours[layer][b], gradient, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_packed_samples_have_the_gradients_of_padded_ones(table, llama, name):
    objective, num_completions = OBJECTIVES[name]
    dataset, model = table(num_completions=num_completions), llama().eval()
    found = []
    for layout in LAYOUTS.values():
        batch = whole(layout, dataset)
        with at_rest(model):
            found.append(sample_gradients(chosen_frozen(model), batch, lambda b=batch: objective(model, b)["loss"]))
    for layer, gradient in found[0].items():
        torch.testing.assert_close(found[1][layer], gradient, rtol=1e-5, atol=1e-5)


def chosen_frozen(model):
    return {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear) and n != "lm_head"}


def test_spans_of_a_padded_and_of_a_packed_batch(table):
    # rows of 3+4+6, 0+5+4, 1+1+1 tokens; padded to 9, two sequences a row
    dataset = table(num_completions=2, lengths=[(3, 4, 6), (0, 5, 4), (1, 1, 1)])
    assert spans(whole(collate, dataset)) == [slice(0, 18), slice(18, 36), slice(36, 54)]
    packed = spans(whole(pack, dataset))
    assert packed[:2] == [slice(0, 13), slice(13, 22)]
    assert packed[2] == slice(22, 24)  # of its three tokens the last predicts nothing, and has no gradient


def test_the_model_ends_as_it_was(table, llama):
    model = llama(lora=True).train()
    model.get_base_model().model.norm.eval()
    before = [(m.training, len(m._forward_hooks)) for m in model.modules()]
    wanted = [p.requires_grad for p in model.parameters()]
    layers, batch = chosen_layers(model), whole(collate, table())

    def failing(*_):
        raise RuntimeError("stop")

    for each in (lambda *_: None, failing):
        try:
            with at_rest(model):
                assert not model.training
                assert not any(p.requires_grad for p in model.parameters())
                observe(layers, batch, [(lambda: SFT()(model, batch)["loss"], each)])
        except RuntimeError as error:
            assert each is failing, error  # noqa: PT017
    assert [(m.training, len(m._forward_hooks)) for m in model.modules()] == before
    assert [p.requires_grad for p in model.parameters()] == wanted
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_losses_that_share_a_forward_pass_have_the_gradients_that_they_have_alone(table, llama, layout, lora):
    """Also where the model's head was not looked at yet, which runs the model on other words."""
    model, batch = llama(lora).eval(), whole(LAYOUTS[layout], table())
    layers, seen, runs = chosen_layers(model), [], []
    backbone = model.get_base_model().base_model if lora else model.base_model

    def reads(number):
        return lambda name, x_PI, delta_PO: seen.append((number, name, x_PI.clone(), delta_PO.clone()))

    def drawn():
        return SFT().fisher_loss(model, batch, torch.Generator().manual_seed(3))

    def own():
        return SFT()(model, batch)["loss"]

    with at_rest(model):
        handle = backbone.layers[0].register_forward_hook(lambda *_: runs.append(1))
        observe(layers, batch, [(own, reads(0)), (drawn, reads(1))], shared=backbone)
        together, seen[:] = list(seen), []
        assert len(runs) == 3, "two to look at the head, and one for both losses"
        observe(layers, batch, [(own, reads(0))])
        observe(layers, batch, [(drawn, reads(1))])
        assert len(runs) == 5
        handle.remove()
    assert [x[:2] for x in together] == [x[:2] for x in seen]
    assert all(a.equal(b) for x, y in zip(together, seen, strict=True) for a, b in zip(x[2:], y[2:], strict=True))
    assert "forward" not in vars(backbone)


def test_a_layer_that_sees_some_positions_only_is_refused(table):
    class Expert(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.expert = nn.Embedding(24, 4), nn.Linear(4, 1)

        def forward(self, ids):
            return self.expert(self.words(ids).flatten(0, 1)[::2])

    model, batch = Expert(), whole(collate, table())
    with pytest.raises(MixalignError, match=r"Layer `expert` sees \d+ of the \d+ positions"):
        observe({"expert": model.expert}, batch, [(lambda: model(batch["input_ids"]), lambda *_: None)])


def test_hooks_get_what_a_layer_multiplied_under_autocast(table, llama):
    model, batch, seen = llama().eval(), whole(collate, table()), []
    layers = chosen_layers(model)
    with at_rest(model):
        observe(
            layers,
            batch,
            [
                (
                    lambda: SFT()(model, batch)["loss"],
                    lambda name, x, delta: seen.append((x.dtype, delta.dtype, (delta.t() @ x).dtype)),
                )
            ],
            precision="bf16-mixed",
        )
    assert set(seen) == {(torch.bfloat16,) * 3}
    assert len(seen) == len(layers)
