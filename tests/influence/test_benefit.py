"""The whole measurement on small Llamas."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from mixalign.data.batches.collate import collate
from mixalign.data.batches.pack import pack
from mixalign.errors import MixalignError
from mixalign.influence import benefit as module
from mixalign.influence import passes
from mixalign.influence.benefit import Benefit, measure
from mixalign.influence.bootstrap import resample
from mixalign.influence.rows import few_of
from mixalign.influence.settings import Influence, Reading
from mixalign.models.load import LoRA, add_lora
from mixalign.objectives.dpo import DPO
from mixalign.objectives.sft import SFT
from tests.influence.conftest import all_of

FEW = Influence(samples=6, bootstrap=20)
OBJECTIVES = {"sft": (SFT(), 1), "dpo": (DPO(beta=0.5), 2)}


@pytest.fixture
def tables(table):
    """Domains `a` and `b`, and target tables `a` and `c`."""

    def make(num_completions=1):
        lengths = [(3, 4, 6), (2, 5, 4), (1, 1, 1), (6, 2, 7), (2, 5, 1), (4, 4, 4), (1, 6, 2), (2, 2, 2)]
        made = [table(t, num_completions, lengths[: 8 - s], seed=s) for s, t in enumerate("abac")]
        return made[:2], made[2:]

    return make


def numbers(one):
    return np.concatenate([one.product_K, one.dot_K, one.resampled_XK.ravel()])


def made_up(**changes):
    """p = (0.5, 0.3, 0.2), products (1, 2, -1), whose weighted sum is 0.5 + 0.6 - 0.2 = 0.9."""
    product_K = np.array([1.0, 2.0, -1.0])
    known = Benefit(
        ("a", "b", "c"),
        np.array([0.5, 0.3, 0.2]),
        product_K,
        2 * product_K,
        product_K[None],
        None,
        None,
        (),
        None,
        (),
        0.1,
    )
    return replace(known, **changes)


def test_scores_by_hand():
    one = made_up()
    assert one.score("epochs").tolist() == pytest.approx([0.5, 0.6, -0.2])
    assert one.residual == pytest.approx(0.9)
    # at a fixed number of steps: products less 0.9, times p; more of one is less of the others
    assert one.score().tolist() == pytest.approx([0.05, 0.33, -0.38])
    assert one.score().sum() == pytest.approx(0)
    assert one.score(size_weighting=False).tolist() == pytest.approx([0.1, 1.1, -1.9])
    assert one.score("epochs", size_weighting=False).tolist() == [1, 2, -1]
    assert one.identity().tolist() == pytest.approx([0.1, 0.66, -0.76])


def test_a_budget_that_is_none_is_named():
    with pytest.raises(MixalignError, match=r"`mixer.budget` is 'step'\. Did you mean `steps`"):
        made_up().score("step")


def test_confidence_is_that_of_the_budget():
    one = made_up(resampled_XK=np.array([[1.0, 2.0, -1.0], [0.1, 2.0, -1.0], [1.0, 2.0, 0.5], [1.0, 2.0, -1.0]]))
    assert one.confidence("epochs").tolist() == [1, 1, 0.75]
    assert one.confidence("steps").tolist() == [0.5, 1, 1]  # 0.1 - 0.45 and 1 - 1.2 are below 0


def test_a_few_rows_tell_the_noise_of_all(table, llama, monkeypatch):
    """Of 128 rows a table 32 of all lengths are read again, and the resamples are as wide as those of all rows."""
    rng = np.random.default_rng(0)
    tables = [table(t, 1, [tuple(x) for x in rng.integers(1, 9, (128, 2))], seed=s) for s, t in enumerate("aba")]
    seen, found = [], []
    monkeypatch.setattr(module, "resample", lambda *given: (seen.append(given), resample(*given))[1])
    for few in (few_of, all_of):
        monkeypatch.setattr(passes, "few_of", few)
        found.append(measure(llama(), SFT(), tables[:2], tables[2:], Influence("identity", samples=128)))
    (score_K, *few), (_, *every) = seen
    np.testing.assert_allclose(score_K, found[1].product_K)
    for few_T, every_T in zip(few[:2], every[:2], strict=True):
        for some, whole in zip(few_T, every_T, strict=True):
            assert (len(some.product_F), len(whole.product_F), some.rows) == (32, 128, 128)
            off = np.abs(some.product_F[:, None] - whole.product_F[None]).reshape(32, 128, -1).max(2).min(1)
            assert off.max() < 1e-4  # each is that of one of the rows
    ratio_K = found[0].resampled_XK.std(0) / found[1].resampled_XK.std(0)
    assert abs(np.log(ratio_K)).max() < 0.4, ratio_K
    for one in found:
        np.testing.assert_allclose(one.resampled_XK.mean(0), score_K, atol=0.2 * one.resampled_XK.std(0).max())


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("curvature", ["identity", "kfac", "ekfac"])
def test_products_of_rows_are_the_products_of_means(tables, llama, monkeypatch, name, curvature):
    objective, num_completions = OBJECTIVES[name]
    seen = []
    monkeypatch.setattr(module, "resample", lambda *given: seen.extend(given) or np.zeros((1, 2)))
    done = []
    reading = Reading(batch_size=4, on_batch=lambda *counts: done.append(counts))
    important = None if curvature == "identity" else 0.5
    influence = Influence(curvature, samples=6, important=important)
    domains, targets = tables(num_completions)
    found = measure(llama(), objective, domains, targets, influence, reading, target_weight_R=[3, 1])
    _, own, target, weight_R, *_ = seen
    own_M, target_MK = ([known.product_F for known in some] for some in (own, target))
    np.testing.assert_allclose([x.mean() for x in own_M], found.product_K, rtol=1e-4, atol=1e-6)
    means_RK = np.stack([x.mean(0) for x in target_MK])
    np.testing.assert_allclose(weight_R @ means_RK, found.product_K, rtol=1e-4, atol=1e-6)
    assert weight_R.tolist() == [0.75, 0.25]
    assert [len(x) for x in own_M] == [6, 6]
    assert [len(x) for x in target_MK] == [6, 5]
    assert len(found.layers) == (7 if curvature == "identity" else 4)
    assert (curvature == "identity") == np.array_equal(found.dot_K, found.product_K)
    # rows of domains are read for gradients and products, for drawn labels, and by EK-FAC once more
    passes = {"identity": 2, "kfac": 3, "ekfac": 4}[curvature]
    assert done[-1] == (12 * passes + 11 * 2,) * 2
    assert len({total for _, total in done}) == 1


def test_the_identity_is_autograd(tables, llama):
    model, (domains, targets) = llama(dtype=torch.float64), tables()
    found = measure(model, SFT(), domains, targets, Influence("identity", samples=99))
    gradients = []
    for table in (*domains, *targets):
        batch = collate([table], np.zeros(len(table), int), np.arange(len(table)))
        loss = SFT()(model, batch)["loss"].mean()
        weights = [p for n, p in model.named_parameters() if "_proj" in n]
        gradients.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, weights)]))
    target = (gradients[2] + gradients[3]) / 2
    wanted = [float(target @ g) for g in gradients[:2]]
    np.testing.assert_allclose(found.product_K, wanted, rtol=1e-4)


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_packed_and_padded_batches_say_the_same(tables, llama, name, lora):
    """Of pairs the plain products only: a prompt's positions are factors' samples once packed, and twice padded."""
    objective, num_completions = OBJECTIVES[name]
    influence = FEW if name == "sft" else replace(FEW, curvature="identity")
    padded, packed = (
        measure(llama(lora), objective, *tables(num_completions), influence, Reading(layout=layout))
        for layout in (collate, pack)
    )
    np.testing.assert_allclose(numbers(packed), numbers(padded), rtol=1e-3, atol=1e-5)


def test_rounding_to_16_bits_changes_little(tables, llama):
    exact, rounded = (measure(llama(), SFT(), *tables(), FEW, Reading(precision=p)) for p in ("32-true", "bf16-mixed"))
    assert not np.array_equal(exact.dot_K, rounded.dot_K)
    np.testing.assert_allclose(rounded.dot_K, exact.dot_K, rtol=0.1, atol=0.05 * np.abs(exact.dot_K).max())


def test_a_fresh_adapter_can_be_measured(tables, llama):
    """Its first factors have no gradient yet."""
    found = measure(add_lora(llama(), LoRA(r=2)), SFT(), *tables(), FEW)
    assert np.isfinite(numbers(found)).all()
    assert np.abs(found.product_K).min() > 0


def test_the_model_ends_as_it_was(tables, llama):
    model = llama(lora=True).train()
    before = {n: (p.detach().clone(), p.requires_grad) for n, p in model.named_parameters()}
    measure(model, SFT(), *tables(), FEW)
    for name, weight in model.named_parameters():
        value, wanted = before[name]
        assert weight.equal(value)
        assert (weight.requires_grad, weight.grad) == (wanted, None)
    assert all(m.training for m in model.modules())


def test_a_seed_is_a_measurement(tables, llama):
    influence = replace(FEW, samples=4)
    first = numbers(measure(llama(), SFT(), *tables(), influence))
    assert numbers(measure(llama(), SFT(), *tables(), influence)).tolist() == first.tolist()
    other = numbers(measure(llama(), SFT(), *tables(), replace(influence, seed=1)))
    assert not np.isclose(other, first).any()


def test_the_empirical_fisher_is_another_curvature(tables, llama):
    true, empirical = (measure(llama(), SFT(), *tables(), replace(FEW, fisher=f)) for f in ("true", "empirical"))
    assert true.dot_K.tolist() == empirical.dot_K.tolist()
    assert not np.allclose(true.product_K, empirical.product_K, rtol=0.01)


def test_a_share_of_the_rows_is_read_where_it_is_more(tables, llama):
    found = measure(llama(), SFT(), *tables(), replace(FEW, samples=2, sampling=0.5))
    assert found.rows_K.tolist() == [4, 4]  # half of 8, of 7
    assert found.rows_R.tolist() == [3, 3]  # of 6, of 5


def test_settings_of_a_task_are_those_of_its_target_table(tables, llama):
    """Target tables `a` and `c` come first and third among the tasks a, b, c."""
    seen = []

    class Listening(DPO):
        def __call__(self, model, batch):
            seen.append(set(batch["task_B"].tolist()))
            return super().__call__(model, batch)

    measure(llama(), Listening(), *tables(2), replace(FEW, curvature="identity"))
    assert seen[:4] == [{0}, {1}, {0}, {2}]


def test_reference_scores_can_be_made_on_the_way(tables, llama):
    domains, targets = tables(2)
    for table in (*domains, *targets):
        table.columns["reference_logp"][:] = -3.0
    cached = measure(llama(), DPO(), domains, targets, FEW)
    for table in (*domains, *targets):
        del table.columns["reference_logp"]
    with pytest.raises(MixalignError, match="task `a` has no column `reference_logp`, which dpo reads"):
        measure(llama(), DPO(), domains, targets, FEW)
    reading = Reading(live_reference=lambda batch: torch.full((len(batch["task_B"]), 2), -3.0, dtype=torch.float64))
    live = measure(llama(), DPO(), domains, targets, FEW, reading)
    assert numbers(live).tolist() == numbers(cached).tolist()


def test_what_is_not_finite_is_named(tables, llama):
    domains, targets = tables(2)
    domains[1].columns["reference_logp"][2] = np.nan
    with pytest.raises(MixalignError, match="gradient of domain `b` is not finite"):
        measure(llama(), DPO(), domains, targets, FEW)
    domains, targets = tables(2)
    targets[1].columns["reference_logp"][:] = np.nan
    model = llama()
    with pytest.raises(MixalignError, match="gradient of target table `c` is not finite"):
        measure(model, DPO(), domains, targets, FEW)
    assert all(p.requires_grad for p in model.parameters())


BAD = [
    ({"curvature": "kfak"}, "`influence.curvature` is 'kfak'. Did you mean `kfac`"),
    ({"fisher": "exact"}, "`influence.fisher` is 'exact'. Known: empirical, true"),
    ({"damping": 0.0}, "`influence.damping` is 0.0, but must be a number above 0. 0.1 is usual"),
    ({"damping": float("nan")}, "`influence.damping` is nan"),
    ({"layers": "mlp("}, r"`influence.layers=mlp\(` is no regular expression: missing \)"),
    ({"important": 0.0}, r"`influence.important` is 0.0, but must be a number from 0 to 1, but not 0, or null"),
    ({"sampling": 1.5}, "`influence.sampling` is 1.5"),
    ({"samples": 0}, "`influence.samples` is 0, but must be a whole number from 1 on"),
    ({"bootstrap": 0.5}, "`influence.bootstrap` is 0.5"),
    ({"curvature": "identity", "important": 0.5}, "`influence.important` ranks layers by their curvature"),
]


@pytest.mark.parametrize(("settings", "message"), BAD, ids=str)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(MixalignError, match=message):
        Influence(**settings)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"influence": Influence(layers="nothing")}, "`influence.layers=nothing` matches no linear layer"),
        ({"volume_K": [1.0]}, r"`volume_K` has shape \(1,\), but there are 2 tables"),
        ({"volume_K": [1.0, -1.0]}, r"`volume_K` is \[1.0, -1.0\], but must be numbers of at least 0"),
        ({"target_weight_R": [0, 0]}, "`target_weight_R` is"),
    ],
)
def test_bad_arguments_are_named(tables, llama, given, message):
    with pytest.raises(MixalignError, match=message):
        measure(llama(), SFT(), *tables(), **given)


def test_an_empty_table_is_named(tables, table, llama):
    domains, targets = tables()
    with pytest.raises(MixalignError, match="A table of task `empty` has no rows"):
        measure(llama(), SFT(), [*domains, table("empty", lengths=[])], targets)


def test_damping_rises_until_the_scores_can_be_true(tables, llama):
    """No volume, changed by the advised 15 %, moves the target loss by more than itself."""
    free = measure(llama(), SFT(), *tables(), FEW)
    largest = 0.15 * np.abs(free.score()).max()
    assert free.damping == measure(llama(), SFT(), *tables(), FEW, target_loss=largest * 1.01).damping == 0.1
    bound = largest / 50
    held = measure(llama(), SFT(), *tables(), FEW, target_loss=bound)
    assert 0.15 * np.abs(held.score()).max() <= bound
    dampings = [digit * 10.0**power for power in range(-1, 4) for digit in (1, 2, 5)]
    place = dampings.index(pytest.approx(held.damping))
    assert place > 0
    below = measure(llama(), SFT(), *tables(), replace(FEW, damping=dampings[place - 1]))
    assert 0.15 * np.abs(below.score()).max() > bound
    assert np.array_equal(
        numbers(held), numbers(measure(llama(), SFT(), *tables(), replace(FEW, damping=held.damping)))
    )
    plain = replace(FEW, curvature="identity")  # its products are no nats
    assert np.array_equal(
        numbers(measure(llama(), SFT(), *tables(), plain, target_loss=1e-9)),
        numbers(measure(llama(), SFT(), *tables(), plain)),
    )


def test_scores_by_target_add_up(tables, llama):
    found = measure(llama(), SFT(), *tables(), FEW, target_weight_R=[3, 1])
    assert found.tables == ("a", "c")
    np.testing.assert_allclose(np.array([0.75, 0.25]) @ found.by_target(), found.score(), rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(found.by_target().sum(1), 0, atol=1e-5)


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_the_factors_of_adapters_find_each_other(tables, llama, monkeypatch, lora):
    """One level of damping for both; however small B is, A's part of the scores then falls with its square."""
    seen = []

    def joined(blocks):
        seen.append(real(blocks))
        return seen[-1]

    real = module.joined
    monkeypatch.setattr(module, "joined", joined)
    model = llama(lora)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            weight.data.mul_(1e-6)
    measure(model, SFT(), *tables(), FEW)
    assert {block.level is not None for block in seen[0].values()} == {lora}
    for name, block in seen[0].items():
        if "lora_A" in name:
            assert block.level > 1e6 * block.curvature_OI.mean() > 0
            assert block.level == seen[0][name.replace("lora_A", "lora_B")].level
