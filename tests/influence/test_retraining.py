"""The benefit is what retraining shows, on a problem where nothing is approximated.

Logistic regression on five categories whose features are orthogonal directions of different lengths. Its Hessian has
these directions as eigenvectors, so that EK-FAC's curvature is exact, and finite differences of retrained optima are
the truth.
"""

from typing import ClassVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mixalign.data.dataset import TaskDataset
from mixalign.influence.benefit import measure
from mixalign.influence.settings import Influence, Reading
from mixalign.types import TokenRow

CATEGORIES = 5
ROTATION = torch.linalg.qr(torch.randn(5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64))[0]
FEATURES = torch.tensor([0.7, 1.0, 1.3, 1.6, 2.0], dtype=torch.float64)[:, None] * ROTATION
# category frequencies (unnormalised) and rates of label 1
DOMAINS = {
    "many": (600, [5, 4, 3, 2, 1], [0.2, 0.4, 0.6, 0.8, 0.5]),
    "some": (200, [1, 1, 1, 1, 1], [0.5, 0.7, 0.3, 0.4, 0.6]),
    "few": (60, [1, 2, 3, 4, 5], [0.9, 0.2, 0.7, 0.3, 0.4]),
}
TARGET = (300, [1, 2, 1, 2, 1], [0.4, 0.6, 0.4, 0.5, 0.5])


class Logistic:
    """The objective: cross-entropy of label 0 or 1, the one word behind the category."""

    name: ClassVar = "logistic"
    form: ClassVar = "supervised"
    uses_reference: ClassVar = False

    def __call__(self, model, batch):
        z_B = self._logits(model, batch)
        return {"loss": F.binary_cross_entropy_with_logits(z_B, batch["target_N"].to(z_B), reduction="none")}

    def fisher_loss(self, model, batch, generator):
        """Its gradient's square is the expectation over the labels: nothing is drawn."""
        z_B = self._logits(model, batch)
        return (z_B.sigmoid() * (-z_B).sigmoid()).sqrt().detach() * z_B

    def _logits(self, model, batch):
        return model(batch["input_ids"]).flatten()[batch["predict_N"]]


def make_table(task, rows, often, rates, seed):
    rng = np.random.default_rng(seed)
    category_N = rng.choice(CATEGORIES, rows, p=np.array(often) / sum(often))
    label_N = rng.random(rows) < np.array(rates)[category_N]
    one = np.ones(1, bool)
    pairs = enumerate(zip(category_N, label_N, strict=True))
    return TaskDataset.from_rows(
        task,
        [
            TokenRow(row_id=n, prompt=np.array([c]), completions=[np.array([y])], supervised=[one])
            for n, (c, y) in pairs
        ],
        1,
    )


def rows_of(table):
    words = table.ids_T.reshape(-1, 2)
    return FEATURES[words[:, 0]], torch.tensor(words[:, 1], dtype=torch.float64)


def train(tables, volume_K):
    """The optimum of the sum over rows, each domain's weighted by its volume, by Newton's method."""
    weight = torch.zeros(CATEGORIES, dtype=torch.float64)
    for _ in range(30):
        gradient, hessian = torch.zeros(5, dtype=torch.float64), torch.zeros(5, 5, dtype=torch.float64)
        for table, volume in zip(tables, volume_K, strict=True):
            x, y = rows_of(table)
            p = (x @ weight).sigmoid()
            gradient += volume * x.t() @ (p - y)
            hessian += volume * (x * (p * (1 - p))[:, None]).t() @ x
        weight = weight - torch.linalg.solve(hessian, gradient)
    return weight


def build(weight):
    model = nn.Sequential(nn.Embedding(CATEGORIES, 5, dtype=torch.float64), nn.Linear(5, 1, bias=False).double())
    model[0].weight.data, model[1].weight.data = FEATURES.clone(), weight[None].clone()
    return model


def target_loss(weight, table):
    x, y = rows_of(table)
    return float(F.binary_cross_entropy_with_logits(x @ weight, y))


@pytest.fixture(scope="module")
def problem():
    domains = [make_table(name, *spec, seed=k) for k, (name, spec) in enumerate(DOMAINS.items())]
    return domains, make_table("target", *TARGET, seed=9)


def test_the_benefit_is_the_finite_difference_of_retraining(problem):
    domains, target = problem
    model = build(train(domains, [1, 1, 1]))
    influence = Influence(damping=1e-9, samples=1000)
    benefit = measure(model, Logistic(), domains, [target], influence, Reading(batch_size=64))
    step, truth = 1e-4, []
    for k in range(3):
        up, down = (target_loss(train(domains, 1 + sign * step * np.eye(3)[k]), target) for sign in (1, -1))
        truth.append(-(up - down) / (2 * step))
    score = benefit.score("epochs")
    assert np.abs(score - truth).max() < 1e-3 * np.abs(truth).max()
    assert np.abs(np.array(truth)).min() > 1e-3  # all of them say something
    assert abs(benefit.residual) < 1e-8  # the entries sum to 0 at the optimum,
    np.testing.assert_allclose(benefit.score("steps"), score, atol=1e-8)  # and centring changes nothing
    assert benefit.share_K.tolist() == pytest.approx([600 / 860, 200 / 860, 60 / 860])
    assert benefit.rows_K.tolist() == [600, 200, 60]
    assert benefit.rows_R.tolist() == [300]


def test_a_domain_counted_twice_is_one_with_its_rows_twice(problem):
    domains, target = problem
    words, n = domains[1].ids_T, len(domains[1])
    twice = TaskDataset(
        "some", np.tile(words, 2), np.tile(domains[1].supervised_T, 2), np.ones((2 * n, 2), int), np.arange(2 * n)
    )
    model = build(train(domains, [1, 2, 1]))
    influence = Influence(damping=1e-9, samples=1000, bootstrap=1)
    copied = measure(model, Logistic(), [domains[0], twice, domains[2]], [target], influence)
    counted = measure(model, Logistic(), domains, [target], influence, volume_K=[600, 400, 60])
    np.testing.assert_allclose(counted.score("epochs"), copied.score("epochs"), rtol=1e-6)
    assert abs(counted.residual) < 1e-8


def test_a_clear_effect_is_sure_and_noise_is_not():
    """From weights of 0 a domain like the target helps for certain; one of coin flips may do anything."""
    rates = [0.1, 0.9, 0.1, 0.9, 0.1]
    like = make_table("like", 200, [1] * 5, rates, seed=1)
    against = make_table("against", 200, [1] * 5, [1 - r for r in rates], seed=2)
    noise = make_table("noise", 200, [1] * 5, [0.5] * 5, seed=5)
    target = make_table("target", 200, [1] * 5, rates, seed=4)
    model = build(torch.zeros(5, dtype=torch.float64))
    benefit = measure(model, Logistic(), [like, against, noise], [target], Influence(samples=200))
    score, confidence = benefit.score("epochs"), benefit.confidence("epochs")
    assert score[0] > 0 > score[1]
    assert confidence[:2].tolist() == [1, 1]
    assert 0.5 <= confidence[2] < 0.9
    again = measure(model, Logistic(), [like, against, noise], [target], Influence(samples=200))
    assert again.confidence("epochs").tolist() == confidence.tolist()
    other = measure(model, Logistic(), [like, against, noise], [target], Influence(samples=200, seed=1))
    assert other.confidence("epochs")[2] != confidence[2]
