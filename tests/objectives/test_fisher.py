"""The gradients of `fisher_loss` have the generalised Gauss-Newton matrix of the objective as their second moment."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from transformers import PretrainedConfig

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
    from mixalign.data.collate import collate
    from mixalign.data.pack import pack

    model = sft_job.start().eval()
    rows = torch.tensor([[0, 1, 2], [1, 2, 3]]).numpy()
    padded, packed = (layout(sft_job.train, *rows) for layout in (collate, pack))
    loss_B = SFT().fisher_loss(model, padded, generator())
    assert SFT().fisher_loss(model, padded, generator()).equal(loss_B)
    assert not SFT().fisher_loss(model, padded, generator(1)).equal(loss_B)
    torch.testing.assert_close(SFT().fisher_loss(model, packed, generator()), loss_B, rtol=1e-5, atol=1e-5)
    adapted = add_lora(model, LoRA(r=2)).eval()
    torch.testing.assert_close(SFT().fisher_loss(adapted, padded, generator()), loss_B, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_dpo_over_both_winners_is_the_second_derivative(monkeypatch, smoothing):
    """Log ratio 2 and beta 0.5 make h = 1: p = 0.731059, and p (1 - p) beta^2 = 0.0491530."""
    logp_BS = torch.tensor([[-10.0, -14.0]] * 20_000, dtype=torch.float64, requires_grad=True)
    batch = Batch(
        reference_logp_BS=torch.tensor([[-11.0, -13.0]], dtype=torch.float64), task_B=torch.zeros(20_000, dtype=int)
    )
    monkeypatch.setattr("mixalign.objectives.dpo.score_completions", lambda *_: SimpleNamespace(logp_BS=logp_BS))
    objective = DPO(beta=0.5, label_smoothing=smoothing)
    loss_B = objective.fisher_loss(None, batch, generator())
    (g_BS,) = torch.autograd.grad(loss_B.sum(), logp_BS)
    # (sigmoid(h) - 1) beta where the chosen side wins, else sigmoid(h) beta; the rejected side has the opposite
    assert sorted(set(g_BS[:, 0].float().tolist())) == pytest.approx([-0.5 * 0.268941, 0.5 * 0.731059], rel=1e-5)
    assert float((g_BS[:, 0] < 0).double().mean()) == pytest.approx(0.731059, abs=0.012)
    assert float(g_BS[:, 0].square().mean()) == pytest.approx(0.0491530, rel=0.03)
    assert g_BS[:, 0].equal(-g_BS[:, 1])
    one_BS = logp_BS[:1].detach()
    second = torch.autograd.functional.hessian(lambda x: objective.scores(x, batch)["loss"].double().mean(), one_BS)
    assert float(second[0, 0, 0, 0]) == pytest.approx(0.0491530, rel=1e-4)
