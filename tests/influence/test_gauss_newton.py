"""Influence through K-FAC and EK-FAC against the generalised Gauss-Newton matrix, inverted without factors.

A Llama of two layers and 960 weights, trained on four Markov chains. What is compared is the product of each of 256
training rows' gradients with the inverse curvature times the target gradient. Chance correlations of 256 rows have
a standard deviation of 0.06. Measured:

| correlation with   | one block a layer | the whole matrix |
| ------------------ | ----------------- | ---------------- |
| plain product      | 0.56              | 0.24             |
| K-FAC              | 0.84              | 0.45             |
| EK-FAC             | 0.85              | 0.46             |
| one block a layer  | 1                 | 0.70             |

What is lost to the whole matrix is lost by leaving out the curvature between layers, not by the factors.
"""

import numpy as np
import pytest
import torch

from mixalign.data.batches.collate import collate
from mixalign.data.dataset import TaskDataset
from mixalign.influence import benefit as module
from mixalign.influence import passes
from mixalign.influence.benefit import measure
from mixalign.influence.layers import chosen_layers
from mixalign.influence.settings import Influence
from mixalign.objectives.sft import SFT
from mixalign.types import TokenRow
from tests.influence.conftest import all_of

VOCAB, DAMPING, ROWS, PROMPT = 24, 0.1, 64, 5


def chain(task, seed, rows=ROWS) -> TaskDataset:
    """Sequences of a Markov chain with few likely successors."""
    rng = np.random.default_rng([seed, rows])
    successor = np.random.default_rng(seed).dirichlet(np.full(VOCAB, 0.1), VOCAB)
    made = []
    for number in range(rows):
        words = [int(rng.integers(VOCAB))]
        while len(words) < PROMPT + 1 + number % 4:
            words.append(int(rng.choice(VOCAB, p=successor[words[-1]])))
        one = np.ones(len(words) - PROMPT, bool)
        made.append(
            TokenRow(
                row_id=number, prompt=np.array(words[:PROMPT]), completions=[np.array(words[PROMPT:])], supervised=[one]
            )
        )
    return TaskDataset.from_rows(task, made, 1)


def batch_of(table, rows=None):
    rows = np.arange(len(table)) if rows is None else rows
    return collate([table], np.zeros(len(rows), int), rows)


def flat(gradients):
    return torch.cat([g.flatten(-2) for g in gradients], -1).double()


def gauss_newton(model, tables, weights):
    """E over rows of `(1/n) sum_t J_t' (diag p - p p') J_t`, rows being alike in number in all tables."""
    size, count = sum(w.numel() for w in weights), 0
    matrix_DD = torch.zeros(size, size, dtype=torch.float64)
    for table in tables:
        for row in range(len(table)):
            batch = batch_of(table, np.array([row]))
            logits_NV = model(input_ids=batch["input_ids"]).logits[0, batch["predict_N"]]
            num = logits_NV.numel()
            one_hot = torch.eye(num).view(num, *logits_NV.shape)
            jacobian = flat(torch.autograd.grad(logits_NV, weights, one_hot, is_grads_batched=True))
            jacobian_NVD = jacobian.view(*logits_NV.shape, size)
            p_NV = logits_NV.detach().double().softmax(1)
            centred_NVD = jacobian_NVD - torch.einsum("nv,nvd->nd", p_NV, jacobian_NVD)[:, None]
            root = (p_NV.sqrt()[..., None] * centred_NVD).flatten(0, 1) / len(logits_NV) ** 0.5
            matrix_DD += root.t() @ root
            count += 1
    return matrix_DD / count


@pytest.fixture(scope="module")
def trained(llama):
    domains = [chain(f"chain {k}", k) for k in range(4)]
    targets = [chain("chain 0", 0, 30), chain("chain 1", 1, 20)]
    model = llama(layers=2)
    model.set_attn_implementation("eager")  # the one that knows batched gradients
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    rng = np.random.default_rng(0)
    for _ in range(150):
        losses = [SFT()(model, batch_of(table, rng.integers(ROWS, size=6)))["loss"] for table in domains]
        torch.cat(losses).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval(), domains, targets


@pytest.fixture(scope="module")
def exact(trained):
    """Products of all rows (K * M,) under a matrix with one block a layer, and under the whole one, damped alike."""
    model, domains, targets = trained
    weights = [layer.weight for layer in chosen_layers(model).values()]
    whole_DD = gauss_newton(model, domains, weights)
    layers = whole_DD.diagonal().split([w.numel() for w in weights])
    own_DD = torch.block_diag(*(torch.ones(len(x), len(x)) for x in layers))
    damping_D = torch.cat([(DAMPING * x.mean()).expand(len(x)) for x in layers])

    def gradient(table, rows):
        return flat(torch.autograd.grad(SFT()(model, batch_of(table, rows))["loss"].mean(), weights))

    target_D = torch.stack([gradient(t, np.arange(len(t))) for t in targets]).mean(0)
    longest_first = [np.argsort(-table.length_N, kind="stable")[:, None] for table in domains]
    rows_ND = torch.stack([gradient(t, row) for t, rows in zip(domains, longest_first, strict=True) for row in rows])
    solve = torch.linalg.solve
    return [(rows_ND @ solve(m + damping_D.diag(), target_D)).numpy() for m in (whole_DD * own_DD, whole_DD)]


LEAST = {"identity": (-1, -1), "kfac": (0.75, 0.35), "ekfac": (0.75, 0.35)}


@pytest.mark.long
def test_factored_influence_follows_the_gauss_newton_matrix(trained, exact, monkeypatch):
    model, domains, targets = trained
    found = {}
    monkeypatch.setattr(passes, "few_of", all_of)
    for curvature, least in LEAST.items():
        seen = []
        monkeypatch.setattr(
            module, "resample", lambda _, own, *__, seen=seen: seen.extend(x.product_F for x in own) or np.zeros((1, 4))
        )
        measure(model, SFT(), domains, targets, Influence(curvature))
        found[curvature] = [np.corrcoef(np.concatenate(seen), wanted)[0, 1] for wanted in exact]
        assert all(np.array(found[curvature]) > least), found
    assert min(found["kfac"][0], found["ekfac"][0]) > found["identity"][0] + 0.1
