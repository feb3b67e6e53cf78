"""The gradients of `fisher_loss` have the generalised Gauss-Newton matrix of the objective as their second moment."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from transformers import PretrainedConfig

from mixalign.errors import MixalignError
from mixalign.models.load import LoRA, add_lora
from mixalign.objectives.dpo import DPO
from mixalign.objectives.sft import SFT
from mixalign.types import Batch


class Bigrams(nn.Module):
    """A causal LM whose next word depends on the last one: logits are a row of a table, times a scale at the end.

    It has what `score_completions` asks of a model of transformers. A scale other than 1 is done after the head.
    """

    def __init__(self, vocab, scale=1.0):
        super().__init__()
        self.config = PretrainedConfig(vocab_size=vocab)
        self.table = nn.Embedding(vocab, vocab, dtype=torch.float64)
        self.head = nn.Linear(vocab, vocab, bias=False, dtype=torch.float64)
        self.scale = scale
        torch.manual_seed(0)
        nn.init.normal_(self.table.weight)
        nn.init.eye_(self.head.weight)

    def base_model(self, input_ids, use_cache=False):
        return SimpleNamespace(last_hidden_state=self.table(input_ids))

    def get_output_embeddings(self):
        return self.head

    def forward(self, input_ids, use_cache=False):
        return SimpleNamespace(logits=self.scale * self.head(self.table(input_ids)))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


# one row of words 0 1 2 3 with targets at positions 0, 1 and 3, behind words 0, 1 and 3
BATCH = Batch(
    input_ids=torch.tensor([[0, 1, 2, 3]]),
    predict_N=torch.tensor([0, 1, 3]),
    target_N=torch.tensor([1, 2, 0]),
    sequence_N=torch.tensor([0, 0, 0]),
    num_tokens_BS=torch.tensor([[3.0]]),
    task_B=torch.tensor([0]),
)


def repeated(times, batch=BATCH):
    """The same row many times: as many draws at once."""
    rows, width = batch["input_ids"].shape
    shift = torch.arange(times)[:, None]
    return batch | Batch(
        input_ids=batch["input_ids"].repeat(times, 1),
        predict_N=(batch["predict_N"] + shift * rows * width).flatten(),
        target_N=batch["target_N"].repeat(times),
        sequence_N=(batch["sequence_N"] + shift * rows).flatten(),
        num_tokens_BS=batch["num_tokens_BS"].repeat(times, 1),
        task_B=torch.zeros(times, dtype=torch.long),
    )


@pytest.mark.parametrize("scale", [1.0, pytest.param(2.0, marks=pytest.mark.filterwarnings("ignore:Bigrams changes"))])
def test_sft_on_many_draws_is_the_gauss_newton_matrix(scale):
    """Hidden states are the logits but for the scale: the matrix is `scale^2 (diag p - p p') / 3` for each token."""
    model, times = Bigrams(4, scale), 20_000
    batch = repeated(times)
    seen = []
    model.table.register_forward_hook(lambda module, args, output: seen.append(output))
    loss_B = SFT().fisher_loss(model, batch, generator())
    hidden_BTV = seen[-1]
    assert loss_B.shape == (times,)
    assert loss_B.dtype == torch.float32
    (g_BTV,) = torch.autograd.grad(loss_B.sum(), hidden_BTV)
    assert g_BTV[:, 2].abs().max() == 0  # nothing is predicted there
    g_BD = g_BTV[:, [0, 1, 3]].flatten(1)
    p_TV = (scale * hidden_BTV[0, [0, 1, 3]].detach()).softmax(1)
    wanted = torch.block_diag(*(scale**2 * (torch.diag(p) - torch.outer(p, p)) / 3 for p in p_TV))
    found = g_BD.t() @ g_BD / times
    assert float((found - wanted).norm() / wanted.norm()) < 0.03
    torch.testing.assert_close(g_BD.mean(0), torch.zeros(12).double(), rtol=0, atol=0.01 * scale)


def test_sft_draws_are_seeded(sft_job):
    from mixalign.data.batches.collate import collate
    from mixalign.data.batches.pack import pack

    model = sft_job.start().eval()
    rows = torch.tensor([[0, 1, 2], [1, 2, 3]]).numpy()
    padded, packed = (layout(sft_job.train, *rows) for layout in (collate, pack))
    loss_B = SFT().fisher_loss(model, padded, generator())
    assert SFT().fisher_loss(model, padded, generator()).equal(loss_B)
    assert not SFT().fisher_loss(model, padded, generator(1)).equal(loss_B)
    torch.testing.assert_close(SFT().fisher_loss(model, packed, generator()), loss_B, rtol=1e-5, atol=1e-5)
    adapted = add_lora(model, LoRA(r=2)).eval()
    torch.testing.assert_close(SFT().fisher_loss(adapted, padded, generator()), loss_B, rtol=1e-5, atol=1e-5)


def pairs(times, logp=(-10.0, -14.0)):
    """The same pair many times: log-probabilities with a gradient, and the batch."""
    logp_BS = torch.tensor([logp] * times, dtype=torch.float64, requires_grad=True)
    reference_BS = torch.tensor([[-11.0, -13.0]], dtype=torch.float64).repeat(times, 1)
    tokens_BS = torch.tensor([[2.0, 4.0]]).repeat(times, 1)
    return logp_BS, Batch(
        reference_logp_BS=reference_BS, num_tokens_BS=tokens_BS, task_B=torch.zeros(times, dtype=torch.long)
    )


@pytest.fixture
def fisher_gradients(monkeypatch):
    """Gradients of DPO's `fisher_loss` by the log-probabilities, of many draws."""

    def compute(objective, times=20_000):
        logp_BS, batch = pairs(times)
        monkeypatch.setattr("mixalign.objectives.dpo.score_completions", lambda *_: SimpleNamespace(logp_BS=logp_BS))
        loss_B = objective.fisher_loss(None, batch, generator())
        assert loss_B.shape == (times,)
        assert loss_B.dtype == torch.float32
        return torch.autograd.grad(loss_B.double().sum(), logp_BS)[0]

    return compute


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_dpo_is_the_second_derivative_and_the_moment_of_a_drawn_winner(fisher_gradients, smoothing):
    """Log ratio 2 and beta 0.5 make h = 1: p = 0.731059, and p (1 - p) beta^2 = 0.0491530.

    Drawn winners have the gradients beta (p - 1) with probability p and beta p with 1 - p: their squares are on average
    beta^2 [p (1 - p)^2 + (1 - p) p^2], the same.
    """
    p = 0.731059
    assert 0.25 * (p * (1 - p) ** 2 + (1 - p) * p**2) == pytest.approx(0.0491530, rel=1e-5)
    g_BS = fisher_gradients(DPO(beta=0.5, label_smoothing=smoothing))
    assert g_BS.square().mean(0).tolist() == pytest.approx([0.0491530] * 2, rel=1e-5)
    assert float(g_BS.mean()) == pytest.approx(0, abs=1e-8)
    assert abs(float(g_BS[:, 0].sign().mean())) < 0.03  # both signs, as often
    torch.testing.assert_close(g_BS[:, 0], -g_BS[:, 1], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    "objective",
    [
        DPO(beta=0.5, loss="ipo"),
        DPO(beta=0.5, loss="robust", label_smoothing=0.2),
        DPO(beta=0.5, loss="sigmoid_norm"),
        DPO(beta=2.0, loss="simpo"),
        DPO(beta=0.1, reference_free=True),
        DPO(beta=0.5, nll_weight=3.0),  # which is linear
    ],
    ids=str,
)
def test_convex_losses_have_their_second_derivative(fisher_gradients, objective):
    g_BS = fisher_gradients(objective)
    logp_BS, batch = pairs(1)
    wanted_SS = torch.autograd.functional.hessian(
        lambda x: objective._preference(objective._ratios(x, batch), batch).sum(), logp_BS.detach()
    )[0, :, 0]
    assert float(wanted_SS.abs().max()) > 1e-3
    torch.testing.assert_close(g_BS.t() @ g_BS / len(g_BS), wanted_SS, rtol=1e-4, atol=1e-9)


def test_straight_losses_are_refused(fisher_gradients):
    with pytest.raises(MixalignError, match=r"objective.loss=hinge` is made of straight lines.*influence=identity"):
        fisher_gradients(DPO(loss="hinge"))
    assert fisher_gradients(DPO(loss=("hinge", "sigmoid")), 5).abs().max() == 0  # task 0, of two
