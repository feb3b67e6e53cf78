"""Factors and EK-FAC's spectrum on sums that are known."""

import numpy as np
import pytest
import torch
from torch import nn

from mixalign.data.batches.collate import collate
from mixalign.data.batches.pack import pack
from mixalign.influence import gemm
from mixalign.influence.capture import at_rest, observe, spans
from mixalign.influence.factors import Moments, Spectrum, _eigh, zeros
from mixalign.influence.gemm import add_product
from mixalign.influence.layers import chosen_layers
from mixalign.influence.solve import Basis, Block, dot, flattest, joined, solve
from mixalign.objectives.sft import SFT


def alone(total):
    return total


def grid(num_inputs, num_outputs):
    """Every input with every output gradient as a sample of one position: factors are exact on it."""
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(30, num_inputs, generator=rng, dtype=torch.float64)
    delta = torch.randn(25, num_outputs, generator=rng, dtype=torch.float64)
    return x.repeat_interleave(25, 0), delta.repeat(30, 1)


@pytest.mark.parametrize("damping", [1e-9, 0.1])
@pytest.mark.parametrize("curvature", ["kfac", "ekfac"])
def test_the_inverse_is_the_dense_one_where_the_factorisation_is_exact(curvature, damping):
    layers = {"a": nn.Linear(5, 4, bias=False, dtype=torch.float64)}
    x_PI, delta_PO = grid(5, 4)
    num = len(x_PI)
    moments = Moments(layers)
    moments.at(1 / num)("a", x_PI, delta_PO)
    bases = moments.bases(alone)
    spectrum = Spectrum(bases)
    spectrum.at([slice(n, n + 1) for n in range(num)], 1 / num)("a", x_PI, delta_PO)
    block = Block(bases["a"], spectrum.moments(alone)["a"]) if curvature == "ekfac" else Block.kfac(bases["a"])
    sample_ND = torch.einsum("no,ni->noi", delta_PO, x_PI).flatten(1)
    fisher_DD = sample_ND.t() @ sample_ND / num
    vector_OI = torch.randn(4, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    damped_DD = fisher_DD + damping * fisher_DD.diagonal().mean() * torch.eye(20)
    wanted_OI = torch.linalg.solve(damped_DD, vector_OI.flatten()).view(4, 5)
    got_OI = solve({"a": block}, {"a": vector_OI}, damping)["a"]
    assert float((got_OI - wanted_OI).norm() / wanted_OI.norm()) < 1e-5


def test_factors_are_of_positions_and_the_spectrum_of_samples():
    """Two positions of a sample, x = 1 and 2, delta = 3 and 4: a gradient of 3 + 8 = 11.

    The sum of delta^2 is 25, the mean of x^2 by these weights (9 * 1 + 16 * 4) / 25 = 2.92: K-FAC's 73, EK-FAC's 121.
    """
    moments = Moments({"a": nn.Linear(1, 1)})
    x_PI, delta_PO = torch.tensor([[1.0], [2.0]]), torch.tensor([[3.0], [4.0]])
    moments.at(1.0)("a", x_PI, delta_PO)
    bases = moments.bases(alone)
    assert bases["a"].output_O.item() == 25
    assert bases["a"].input_I.item() == pytest.approx(2.92)
    assert Block.kfac(bases["a"]).curvature_OI.item() == pytest.approx(73)
    spectrum = Spectrum(bases)
    spectrum.at([slice(0, 2)], 1.0)("a", x_PI, delta_PO)
    assert spectrum.moments(alone)["a"].item() == pytest.approx(121)
    spectrum = Spectrum(bases)
    spectrum.at([slice(0, 1), slice(1, 2)], 0.5)("a", x_PI, delta_PO)  # two samples of gradients 3 and 8
    assert spectrum.moments(alone)["a"].item() == pytest.approx((9 + 64) / 2)


def test_16_bit_layers_are_summed_in_float32():
    """5000 ones are 5000; bfloat16 stops at 256."""
    layer = nn.Linear(1, 1, bias=False, dtype=torch.bfloat16)
    nn.init.ones_(layer.weight)
    batch = {"input_ids": torch.zeros(10, 1)}
    moments, total = Moments({"a": layer}), zeros(layer, 1, 1)

    def each(name, x_PI, delta_PO):
        moments.at(1.0)(name, x_PI, delta_PO)
        add_product(total, delta_PO, x_PI)

    for _ in range(500):
        observe({"a": layer}, batch, [(lambda: layer(torch.ones(10, 1, dtype=torch.bfloat16)), each)])
    assert total.item() == moments.input_II["a"].item() == moments.output_OO["a"].item() == 5000


def test_a_torch_without_wide_products_rounds_them_on_a_gpu_as_well(monkeypatch):
    class OnGPU:
        is_cuda = True

        def __matmul__(self, other):
            return "rounded"

    assert (tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 8)) == gemm.IS_WIDE
    monkeypatch.setattr(gemm, "IS_WIDE", False)
    assert gemm._wide(OnGPU(), None) == "rounded"


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_square_is_made_up_to_its_diagonal(dtype):
    a_PD = torch.randint(-3, 4, (20, 2 * gemm.BLOCK + 5)).to(dtype)  # whole numbers, which no type rounds
    wanted_DD = a_PD.double().T @ a_PD.double()
    sum_DD = torch.ones_like(wanted_DD)
    gemm.add_square(sum_DD, a_PD, 0.5)
    assert torch.equal(sum_DD.tril(), (1 + 0.5 * wanted_DD).tril())
    assert torch.equal(_eigh(sum_DD)[0], _eigh(sum_DD.tril() + sum_DD.tril(-1).T)[0])


def unturned(basis):
    """Eigenvectors of unit matrices, which rounding does not turn."""
    return basis._replace(input_II=torch.eye(len(basis.input_I)), output_OO=torch.eye(len(basis.output_O)))


def gather(model, batch):
    """Moments of one batch under drawn words, and the gradients of its samples summed."""
    layers = chosen_layers(model)
    moments, sums = Moments(layers), {n: zeros(x, x.out_features, x.in_features) for n, x in layers.items()}
    generator = torch.Generator().manual_seed(3)
    with at_rest(model):
        observe(layers, batch, [(lambda: SFT().fisher_loss(model, batch, generator), moments.at(0.1))])
        observe(layers, batch, [(lambda: SFT()(model, batch)["loss"], lambda n, x, d: sums[n].addmm_(d.t(), x))])
        spectrum = Spectrum({n: unturned(b) for n, b in moments.bases(alone).items()})
        generator = torch.Generator().manual_seed(3)
        observe(layers, batch, [(lambda: SFT().fisher_loss(model, batch, generator), spectrum.at(spans(batch), 0.1))])
    return [moments.input_II, moments.output_OO, sums, spectrum.sum_OI]


def wider(batch, extra):
    """The same rows with more padding."""
    _, width = batch["input_ids"].shape
    predict_N = batch["predict_N"] // width * (width + extra) + batch["predict_N"] % width
    return batch | {
        "input_ids": torch.nn.functional.pad(batch["input_ids"], (0, extra), value=7),
        "predict_N": predict_N,
    }


def test_padding_and_packing_change_nothing(table, llama):
    model, dataset = llama().eval(), table()
    chosen = np.zeros(len(dataset), int), np.arange(len(dataset))
    padded = collate([dataset], *chosen)
    wanted = gather(model, padded)
    for batch in (wider(padded, 9), pack([dataset], *chosen)):
        for ours, theirs in zip(gather(model, batch), wanted, strict=True):
            for name, value in theirs.items():
                torch.testing.assert_close(ours[name], value, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("place", range(8))
def test_positions_that_the_loss_does_not_depend_on_are_not_in_the_factors(table, llama, place):
    """Of 3 + 5 tokens the last is not supervised, and so nothing reads position 6, which predicts it, or 7."""
    model, dataset = llama().eval(), table(lengths=[(3, 5)])
    dataset.supervised_T[-1] = False
    batch = collate([dataset], np.zeros(1, int), np.arange(1))
    changed = batch["input_ids"].clone()
    changed[0, place] = 0 if changed[0, place] else 1
    a, b = (gather(model, one) for one in (batch, batch | {"input_ids": changed}))
    for moments, others in zip(a[:2], b[:2], strict=True):
        same = [value.equal(others[name]) for name, value in moments.items()]
        assert all(same) if place > 5 else not any(same)


def test_a_layer_without_any_curvature_gives_nothing():
    """The first factor of a fresh adapter: no gradient, no curvature."""
    layers = {"a": nn.Linear(2, 2)}
    moments = Moments(layers)
    moments.at(1.0)("a", torch.ones(3, 2), torch.zeros(3, 2))
    block = Block.kfac(moments.bases(alone)["a"])
    assert block.solve(torch.zeros(2, 2), 0.1).tolist() == [[0, 0], [0, 0]]
    assert block.unevenness() == float("inf")


def test_the_factors_of_an_adapter_are_damped_by_one_level():
    """However small B is: the part of A falls as its square, in place of staying what it is."""

    def block(*curvature):
        size = len(curvature)
        return Block(Basis(torch.eye(size), torch.eye(1), None, None), torch.tensor([curvature]))

    names = {"A": "q.lora_A.default", "B": "q.lora_B.default"}
    blocks = {names["A"]: block(0.0, 2.0), names["B"]: block(4.0, 1.0, 3.0), "other": block(8.0, 2.0)}
    made = joined(blocks)
    assert [made[n].level for n in names.values()] == [2, 2]  # 10 over 5 weights
    assert made["other"].level is None
    ones = {name: torch.ones_like(b.curvature_OI) for name, b in blocks.items()}
    got = solve(made, ones, 0.5)
    assert got[names["A"]].tolist() == [[1, pytest.approx(1 / 3)]]
    assert got["other"].tolist() == solve(blocks, ones, 0.5)["other"].tolist()
    assert joined({names["A"]: blocks[names["A"]]})[names["A"]].level is None  # by itself

    def share_of_a(size):
        small = {names["A"]: block(0.0, 2.0 * size**2), names["B"]: blocks[names["B"]]}
        gradient = {names["A"]: size * ones[names["A"]]}
        return dot(gradient, solve({names["A"]: joined(small)[names["A"]]}, gradient, 0.1))

    assert share_of_a(1e-3) == pytest.approx(1e-2 * share_of_a(1e-2), rel=1e-3)


def test_important_layers_are_those_of_even_curvature():
    def block(*curvature):
        value = torch.tensor([curvature])
        return Block(None, value)

    # relative variances: 0; of (1, 3) / 2 and of (10, 30) / 20: 0.25; of (0, 2): 1
    blocks = {"a": block(0.0, 2.0), "b": block(10.0, 30.0), "c": block(5.0, 5.0), "d": block(0.0, 0.0)}
    assert [blocks[n].unevenness() for n in "abc"] == pytest.approx([1, 0.25, 0])
    assert list(flattest(blocks, 0.5)) == ["b", "c"]
    assert list(flattest(blocks, 0.01)) == ["c"]
    assert list(flattest(blocks, 1.0)) == list("abcd")


def test_dots_are_over_the_layers_of_the_first():
    a = {"x": torch.tensor([1.0, 2.0])}
    assert dot(a, {"x": torch.tensor([3.0, 4.0]), "y": torch.ones(1)}) == 11
