"""Merges equal mergekit's. It is LGPL-3.0, and an extra of the tests only: `pip install -e .[mergekit]`."""

import pytest
import torch

from mixalign.merging.formulas import drop_and_rescale
from mixalign.merging.methods import Merge
from mixalign.merging.write import merge_folders

pytest.importorskip("mergekit")
pytestmark = pytest.mark.filterwarnings("ignore")  # of its own, and of what it imports
TOLERANCE = {"rtol": 0, "atol": 1e-6}
WEIGHTS = (0.2, 0.5, 0.3)


def load(folder):
    from safetensors import safe_open

    handle = safe_open(folder / "model.safetensors", "pt")
    return {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A base and three models as far from it as half its weights' size."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    root = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    base = LlamaForCausalLM(config)
    base.save_pretrained(root / "base")
    start = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    for number in range(3):
        base.load_state_dict({name: t + 0.5 * t.std().nan_to_num() * torch.randn_like(t) for name, t in start.items()})
        base.save_pretrained(root / f"m{number}")
    return [root / name for name in ("base", "m0", "m1", "m2")]


@pytest.fixture
def theirs(folders, tmp_path):
    """Merges by mergekit; gives the tensors."""
    from mergekit.config import MergeConfiguration
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions

    def go(method, parameters, models, base=folders[0]):
        settings = {
            "merge_method": method,
            "models": [{"model": str(path), "parameters": own} for path, own in models],
            "parameters": parameters,
            "dtype": "float32",
        }
        settings |= {"base_model": str(base)} if base else {}
        out = tmp_path / "theirs"
        run_merge(MergeConfiguration.model_validate(settings), str(out), MergeOptions(copy_tokenizer=False))
        return load(out)

    return go


def alternate(p, generator=None):
    """In place of torch.bernoulli, whose draws mergekit takes from the global generator: every other entry."""
    return (torch.arange(p.numel()) % 2).view(p.shape).to(p.dtype)


@pytest.mark.parametrize(
    ("how", "parameters"),
    [
        (Merge("linear", WEIGHTS), {}),
        (Merge("task_arithmetic", WEIGHTS), {"normalize": False}),
        (Merge("task_arithmetic", WEIGHTS, scale=0.7), {"lambda": 0.7}),
        (Merge("ties", WEIGHTS, density=0.3, trim="tensor"), {"density": 0.3}),
        (Merge("ties", WEIGHTS, density=0.3, trim="tensor", scale=1.5), {"density": 0.3, "lambda": 1.5}),
        (Merge("ties", WEIGHTS, density=0.3, trim="tensor", normalise=False), {"density": 0.3, "normalize": False}),
        (Merge("dare_linear", WEIGHTS, density=0.5, rescale="l1"), {"density": 0.5}),
        (Merge("dare_linear", WEIGHTS, density=0.5, rescale="none"), {"density": 0.5, "rescale": False}),
        (Merge("dare_ties", WEIGHTS, density=0.5, rescale="l1", normalise=False), {"density": 0.5}),
        (Merge("dare_ties", WEIGHTS, density=0.5, rescale="l1"), {"density": 0.5, "normalize": True}),
    ],
    ids=lambda x: x.method if isinstance(x, Merge) else None,
)
def test_a_merge_of_three_models_equals_mergekits(folders, theirs, tmp_path, monkeypatch, how, parameters):
    monkeypatch.setattr(torch, "bernoulli", alternate)
    base, *models = folders
    merge_folders(models, how, tmp_path / "ours", base)
    weighted = [(path, {"weight": weight}) for path, weight in zip(models, WEIGHTS, strict=True)]
    wanted = theirs(how.method, parameters, weighted, None if how.method == "linear" else base)
    found = load(tmp_path / "ours")
    assert found.keys() == wanted.keys()
    gap = max(float((found[name] - wanted[name]).abs().max()) for name in wanted)
    moved = max(float((wanted[name] - tensor).abs().max()) for name, tensor in load(base).items())
    print(f"{how.method}: largest difference {gap:.1e}, largest change of the base {moved:.2f}")
    for name, tensor in wanted.items():
        torch.testing.assert_close(found[name], tensor, **TOLERANCE, msg=name)


@pytest.mark.parametrize("t", [0.0, 0.3, 0.5, 1.0])
def test_slerp_equals_mergekits(folders, theirs, tmp_path, t):
    first, second = folders[1:3]
    merge_folders([first, second], Merge("slerp", (1 - t, t)), tmp_path / "ours")
    wanted, found = theirs("slerp", {"t": t}, [(second, {})], first), load(tmp_path / "ours")
    print(f"slerp {t}: largest difference {max(float((found[n] - wanted[n]).abs().max()) for n in wanted):.1e}")
    for name, tensor in wanted.items():
        torch.testing.assert_close(found[name], tensor, **TOLERANCE, msg=name)


@pytest.mark.parametrize(("ours", "norm"), [("none", None), ("l1", "l1")])
def test_the_same_seed_draws_the_same_mask(ours, norm):
    from mergekit.sparsify import RescaleNorm, bernoulli

    tau = torch.randn(20, 30)
    torch.manual_seed(7)
    wanted = bernoulli(tau, 0.3, RescaleNorm(norm) if norm else None)
    torch.testing.assert_close(drop_and_rescale(tau, 0.3, seed=7, rescale=ours), wanted, **TOLERANCE)
