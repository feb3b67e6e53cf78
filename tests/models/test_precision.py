"""Training that is below the rounding of its precision is told."""

import pytest
import torch
from torch import nn

from mixalign.models.precision import warn_below_rounding
from mixalign.models.tiny import TinyLlama, byte_tokenizer
from tests.tiny_runs import QUIET, SHORT, generated, train_from_overrides


def moved(by, on_grid=True, trained=True):
    """A layer whose weights training moved by a share of the step between two numbers of bfloat16."""
    torch.manual_seed(0)
    layer = nn.Linear(64, 64, bias=False).requires_grad_(trained)
    with torch.no_grad():
        start = layer.weight.bfloat16().float() if on_grid else layer.weight.clone()
        step = 2.0 ** (torch.frexp(start).exponent - 8)
        layer.weight.copy_(start + by * step * (2 * torch.rand_like(start) - 1))
    return layer


@pytest.mark.parametrize("precision", ["bf16-mixed"])
def test_weights_that_are_rounded_back_to_where_they_began_are_told(precision, caplog):
    warn_below_rounding(moved(0.2), precision)
    (said,) = caplog.messages
    assert said.startswith("Training moved the weights by 0.1")
    assert f"of a step of bfloat16, on average, and `trainer.precision={precision}` rounds them" in said


@pytest.mark.parametrize(
    ("layer", "precision"),
    [
        (moved(5), "bf16-mixed"),
        (moved(0.2, on_grid=False), "bf16-mixed"),
        (moved(0.2), "32-true"),
        (moved(0.2), "bf16-true"),
        (moved(0), "bf16-mixed"),
        (moved(0.2, trained=False), "bf16-mixed"),
    ],
    ids=["far enough", "began anywhere", "in float32", "weights of 16 bits", "nothing moved", "frozen"],
)
def test_others_are_not(layer, precision, caplog):
    warn_below_rounding(layer, precision)
    assert not caplog.records


@pytest.mark.parametrize("rate", [1e-7, 0.01])
def test_a_run_on_published_weights_tells(rate, cache, tmp_path, caplog):
    model = TinyLlama(hidden_size=16, num_layers=2, num_heads=2, intermediate_size=32).build()
    model.to(torch.bfloat16).save_pretrained(tmp_path / "model")
    byte_tokenizer().save_pretrained(tmp_path / "model")
    own = ["model=pretrained", f"model.path={tmp_path / 'model'}", "model.chat_template=chatml", f"cache_dir={cache}"]
    how = ["mixer=uniform", "specialists.train=never", "trainer.precision=bf16-mixed", "reference.sft_steps=0"]
    rate = [f"optimizer.lr={rate}", "optimizer.warmup_steps=0"]
    train_from_overrides([*SHORT, *QUIET, *generated(), *own, *how, *rate], str(tmp_path / "run"))
    assert ("Training moved the weights by" in caplog.text) == (rate[0] == "optimizer.lr=1e-07")
