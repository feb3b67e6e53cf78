"""Gradients of the tasks between steps: against gradients row by row, over many draws, and without a trace."""

import json
import threading
from copy import deepcopy
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from mixalign.data.batches.collate import collate
from mixalign.errors import MixalignError
from mixalign.mixers.doge import DoGE
from mixalign.mixers.fixed import Temperature
from mixalign.mixers.pike import PiKE
from mixalign.models.load import LoRA
from mixalign.models.reference import LIVE
from mixalign.objectives.sft import SFT
from mixalign.training.callbacks.gradient_probe import GradientProbe
from mixalign.training.callbacks.probes import probes_for
from tests.tiny_runs import train_from_overrides

ROWS = {"helpful": 30, "reverse": 1, "compare": 5}
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def run(small_job, tmp_path_factory):
    """Two steps on three tasks, one of a single row."""
    return small_job(ROWS).run(tmp_path_factory.mktemp("run"), steps=2)


def by_row(run, seed, rows, pattern=""):
    """The gradient of each drawn row of each task, one row at a time, in float64: (rows, d) a task."""
    module = deepcopy(run.module.model).double()
    weights = {name: p for name, p in module.named_parameters() if p.requires_grad and pattern in name}
    out = []
    for task, dataset in enumerate(run.data.train):
        rng = np.random.default_rng((seed, run.trainer.global_step, task))
        gradients = []
        for row in rng.choice(len(dataset), min(rows, len(dataset)), replace=False):
            module.zero_grad()
            batch = collate(run.data.train, np.array([task]), np.array([row]))
            if run.module.live_reference is not None:
                batch["reference_logp_BS"] = run.module.live_reference(batch)
            run.module.objective(module, batch)["loss"].sum().backward()
            gradients.append(torch.cat([p.grad.flatten() for p in weights.values()]))
        out.append(torch.stack(gradients))
    return out


def expected(gradients):
    """What the docstring of the probe says, for even places in one half and odd ones in the other."""
    mean_Kd = torch.stack([rows.mean(0) for rows in gradients])
    product_KK, noise_K = mean_Kd @ mean_Kd.T, torch.zeros(len(gradients), dtype=torch.float64)
    for k, rows in enumerate(gradients):
        first, second = rows[::2], rows[1::2]
        if len(second):
            gap = first.mean(0) - second.mean(0)
            product_KK[k, k] = first.mean(0) @ second.mean(0)
            noise_K[k] = gap @ gap / (1 / len(first) + 1 / len(second))
    return product_KK, noise_K


def assert_measured(found, gradients):
    product_KK, noise_K = expected(gradients)
    scale = product_KK.abs().max().item()
    torch.testing.assert_close(found["gradient_KK"], product_KK, rtol=1e-4, atol=1e-5 * scale)
    torch.testing.assert_close(found["noise_K"], noise_K, rtol=1e-4, atol=1e-5 * scale)


@pytest.mark.parametrize("pattern", ["", "self_attn"])
def test_products_and_noise_are_those_of_gradients_row_by_row(run, pattern):
    """Six rows, a single one, and five: even halves, one, and halves of three and two."""
    found = GradientProbe(PiKE(), seed=3, rows=6, weights=pattern or None).measure(run.trainer, run.module)
    assert_measured(found, by_row(run, 3, 6, pattern))
    assert found["noise_K"][1] == 0
    assert found["gradient_KK"][1, 1] > 0
    assert {value.dtype for value in found.values()} == {torch.float64}


def test_adapters_and_a_live_reference(small_job, tmp_path):
    """With adapters alone trained, and the reference policy's scores computed beside them."""
    job = small_job(ROWS, lora=LoRA(r=2))
    for dataset in [*job.train, *job.validation]:
        del dataset.columns["reference_logp"]
    run = job.run(tmp_path, Temperature(1.0), steps=2, live=LIVE["adapter_off"])
    assert_measured(GradientProbe(PiKE(), rows=4).measure(run.trainer, run.module), by_row(run, 0, 4))


def test_micro_batches_do_not_matter(run):
    probe = GradientProbe(PiKE(), rows=6)
    whole, sampler = probe.measure(run.trainer, run.module), run.data.sampler
    trainer = trainer_of(run, SimpleNamespace(train=run.data.train, layout=run.data.layout, sampler=deepcopy(sampler)))
    trainer.datamodule.sampler.batch_size = 1
    one = probe.measure(trainer, run.module)
    for name, value in whole.items():
        torch.testing.assert_close(one[name], value, rtol=1e-4, atol=1e-5)


def trainer_of(run, data=None, rank=0, world=1, reduce=lambda value, reduce_op: value):
    """What the probe reads of a trainer."""
    return SimpleNamespace(
        datamodule=data or run.data,
        global_rank=rank,
        world_size=world,
        global_step=run.trainer.global_step,
        accumulate_grad_batches=1,
        strategy=SimpleNamespace(reduce=reduce),
        precision_plugin=run.trainer.precision_plugin,
    )


def on_ranks(world, measure):
    """What each of some ranks gets; a rank is a thread, and sums wait for all of them."""
    barrier, parts, out = threading.Barrier(world, timeout=60), [None] * world, [None] * world

    def work(rank):
        def reduce(value, reduce_op):
            assert reduce_op == "sum"
            parts[rank] = value.clone()
            barrier.wait(60)
            total = sum(parts)
            barrier.wait(60)
            return total

        out[rank] = measure(rank, reduce)

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(world)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return out


@pytest.mark.parametrize("world", [2, 4])
def test_ranks_agree_and_share_the_rows(run, world):
    """One has no row of the task of a single row; four ranks with six rows leave halves of some ranks empty."""
    probe = GradientProbe(PiKE(), rows=6)
    alone = probe.measure(run.trainer, run.module)
    ranks = on_ranks(world, lambda rank, reduce: probe.measure(trainer_of(run, None, rank, world, reduce), run.module))
    for found in ranks:
        for name, value in alone.items():
            assert found[name].equal(ranks[0][name])
            torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5)


MEAN = torch.tensor([[1.0, 0.5, 0.0, 0.0], [0.5, 0.0, 1.0, 0.0]])
SPREAD = (0.5, 2.0)


@pytest.fixture(scope="module")
def linear():
    """A weight vector and rows whose loss is its product with them, so that a row's gradient is the row itself."""
    rng = torch.Generator().manual_seed(0)
    table = [mean + spread * torch.randn(4096, 4, generator=rng) for mean, spread in zip(MEAN, SPREAD, strict=True)]
    model = nn.Linear(4, 1, bias=False)

    def layout(datasets, task_B, row_B):
        return {"x": torch.stack([datasets[t][r] for t, r in zip(task_B, row_B, strict=True)])}

    data = SimpleNamespace(train=table, layout=layout, sampler=SimpleNamespace(batch_size=64))
    module = SimpleNamespace(model=model, device=CPU, scores=lambda batch: {"loss": model(batch["x"])[:, 0]})
    return SimpleNamespace(data=data, module=module)


def test_every_number_is_unbiased(run, linear):
    """Over 500 draws of 8 rows the mean is within 4 standard errors; the square of the mean row would be far off."""
    probe, trainer, draws = GradientProbe(PiKE(), rows=8), trainer_of(run, linear.data), []
    for step in range(500):
        trainer.global_step = step
        found = probe.measure(trainer, linear.module)
        draws.append(torch.cat([found["gradient_KK"].flatten(), found["noise_K"]]))
    draws = torch.stack(draws)
    noise_K = torch.tensor([4 * spread**2 for spread in SPREAD], dtype=torch.float64)
    wanted = torch.cat([(MEAN @ MEAN.T).flatten().double(), noise_K])
    error = draws.std(0) / len(draws) ** 0.5
    assert ((draws.mean(0) - wanted).abs() < 4 * error).all(), (draws.mean(0), wanted, error)
    assert noise_K[1] / 8 > 10 * error[3]


def test_a_gradient_that_is_not_finite_is_not_measured(run, linear):
    data = SimpleNamespace(**vars(linear.data))
    data.train = [linear.data.train[0], torch.full((9, 4), torch.inf)]
    found = GradientProbe(PiKE(), rows=4).measure(trainer_of(run, data), linear.module)
    assert found["gradient_KK"].isnan().tolist() == [[False, True], [True, True]]
    assert found["noise_K"].isnan().tolist() == [False, True]


@pytest.mark.parametrize("micro", [None, 4])
def test_the_training_is_the_same_to_the_bit_with_a_probe(small_job, tmp_path, micro):
    """With dropout, whose draws a measurement must not use up, and gradients that add up over micro-batches."""
    job, runs = small_job(ROWS, objective=SFT(), lora=LoRA(r=2, lora_dropout=0.3)), []
    for probes in ([], [GradientProbe(Temperature())]):
        torch.manual_seed(0)
        runs.append(job.run(tmp_path, steps=4, micro=micro, callbacks=probes))
    plain, probed = runs
    assert not plain.module.probed
    assert {*probed.module.probed} == {"gradient_KK", "noise_K"}
    for name, weight in plain.weights().items():
        assert torch.equal(probed.weights()[name], weight), name
    for before, after in zip(plain.seen.grads, probed.seen.grads, strict=True):
        assert all(torch.equal(after[name], grad) for name, grad in before.items())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rows": 1}, r"`probe\.rows` is 1, but must be a whole number from 2 on\. Gradients"),
        ({"rows": "many"}, r"`probe\.rows` is 'many'"),
        ({"weights": "layers.(1"}, r"`probe\.weights=layers\.\(1` is no regular expression: .*position"),
        ({"weights": 3}, r"`probe\.weights` is 3, but must be a text"),
    ],
)
def test_a_bad_setting_is_named(settings, message):
    assert not probes_for(Temperature(), **settings), "others do not read it"
    with pytest.raises(MixalignError, match=message):
        probes_for(PiKE(), **settings)


def test_weights_that_no_name_has_are_refused_before_the_first_step(small_job, tmp_path):
    message = (
        r"`probe\.weights` is 'lora_', which is in no name of the \d+ trained weights.*`model\.embed_tokens\.weight`"
    )
    probe = GradientProbe(PiKE(), weights="lora_")
    with pytest.raises(MixalignError, match=message):
        small_job(ROWS).run(tmp_path, steps=1, callbacks=[probe])


OVERRIDES = [
    *("model.hidden_size=16", "model.num_layers=1", "model.num_heads=2", "model.intermediate_size=32"),
    *("steps=4", "reference.sft_steps=2", "batch_size=6", "log_every=1", "val_every=2", "probe.rows=4"),
    *("progress=false", "trainer.accelerator=cpu", "mixer=doge", "mixer.final=false", "mixer.eta=1"),
    *(f"data.tasks.{task}=null" for task in ("format", "safe", "taste")),
    *(
        f"data.tasks.{task}={{generator: {task}, rows: 20, validation_rows: 4, test_rows: 4}}"
        for task in ("helpful", "reverse", "compare")
    ),
]


@pytest.mark.long
def test_doge_in_the_pipeline_and_resumed(tmp_path, power_cut, capsys):
    """Cut off at step 3, behind the checkpoint of step 2, a run ends with the same bytes as one that was not."""
    overrides = [*OVERRIDES, f"cache_dir={tmp_path / 'cache'}"]
    train_from_overrides(overrides, str(tmp_path / "calm"))
    steps = [json.loads(line)["loss"] for line in (tmp_path / "calm" / "mix.jsonl").read_text().splitlines()]
    assert steps[0] == pytest.approx([1 / 3] * 3)
    assert all(before != after for before, after in pairwise(steps))
    with power_cut(3):
        train_from_overrides(overrides, str(tmp_path / "cut"))
    train_from_overrides(overrides, str(tmp_path / "cut"))
    for name in ("mix.jsonl", "mixture.json", "eval.json", "metrics.csv", "model/model.safetensors"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "calm" / name).read_bytes(), name


def test_only_mixers_that_read_gradients_have_the_probe():
    assert [type(probe) for probe in probes_for(DoGE())] == [GradientProbe]
    assert [type(probe) for probe in probes_for(PiKE())] == [GradientProbe]
    assert not probes_for(Temperature())
