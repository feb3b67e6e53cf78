"""Trainings on two processes, by DDP and by FSDP2, against one process with the same global batch."""

import importlib.util
import os
import shutil
import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from mixalign.data.batches.even import EvenBatches, is_filler
from mixalign.data.batches.loader import EvalLoader
from mixalign.errors import MixalignError
from mixalign.training.checkpoints import newest_checkpoint
from mixalign.training.fit import Fit
from mixalign.training.sharding import shard

pytestmark = pytest.mark.long  # three pairs of processes train for 50 steps each

CASES = ["float64", "float32", "tied", "accumulated", "lora", "lora, its base is the reference"]


@pytest.fixture(scope="module")
def seen(tmp_path_factory, small_job):
    """What one process saw, what each of two saw, and where the models and checkpoints are."""
    here = __file__.rpartition("/")[0]
    ranks = _module("test_ranks", here)
    folder = tmp_path_factory.mktemp("sharded")
    script = _module("two_ranks", here)
    script.trained("one", folder, small_job)
    for part in ("ddp", "sharded", "refusals"):
        ranks.launch(folder, part)
    names = ("one0", "ddp0", "ddp1", "fsdp20", "fsdp21", "sharded0", "sharded1", "refusals0", "refusals1")
    return SimpleNamespace(folder=folder, script=script, **{name: ranks.load(folder / f"{name}.pt") for name in names})


def _module(name, folder):
    spec = importlib.util.spec_from_file_location(f"invariants_{name}", f"{folder}/{name}.py")
    sys.modules[spec.name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_two_processes_are_one_after_50_steps(seen, kind, case):
    one, two, other = seen.one0[case], getattr(seen, f"{kind}0")[case], getattr(seen, f"{kind}1")[case]
    assert two["alphas"].shape == (50, 3)
    assert float((two["alphas"][-1] - two["alphas"][0]).abs().max()) > 1e-3  # it has moved
    # in float32 the sum of squares over parts of a gradient, by which it is clipped, rounds in another way
    rounded = kind == "fsdp2" and case in ("float32", "tied")
    torch.testing.assert_close(two["alphas"], one["alphas"], rtol=0, atol=1e-6 if rounded else 1e-12)
    assert two["alphas"].equal(other["alphas"])
    assert two["weights"].keys() == one["weights"].keys()
    for name, weight in one["weights"].items():
        torch.testing.assert_close(two["weights"][name], weight, rtol=0, atol=1e-5)
        assert other["weights"][name].equal(two["weights"][name])
    for quantity, value_K in one["evaluation"].items():
        torch.testing.assert_close(two["evaluation"][quantity], value_K, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(two["grad_norm"], one["grad_norm"], rtol=1e-4, atol=0)


@pytest.mark.parametrize("case", ["float32", "tied"])
def test_a_sharded_model_is_exported_whole(seen, case):
    places = [seen.folder / kind / case for kind in ("one", "fsdp2")]
    one, two = (AutoModelForCausalLM.from_pretrained(place) for place in places)
    for name, weight in one.named_parameters():
        torch.testing.assert_close(dict(two.named_parameters())[name], weight, rtol=0, atol=1e-5)
    files = [sorted(path.name for path in place.iterdir()) for place in places]
    assert files[0] == files[1]
    sizes = [(place / "model.safetensors").stat().st_size for place in places]
    assert abs(sizes[0] - sizes[1]) < 1000
    assert (one.lm_head.weight is one.model.embed_tokens.weight) == (case == "tied")


def test_a_sharded_adapter_is_exported_alone(seen):
    place = seen.folder / "fsdp2" / "lora"
    assert (place / "adapter_model.safetensors").is_file()
    assert not (place / "model.safetensors").exists()


@pytest.mark.parametrize("case", ["lora", "tied"])
@pytest.mark.parametrize("kind", ["fsdp2", "fsdp2 folders"])
def test_a_resumed_sharded_training_is_the_uninterrupted_one(seen, kind, case):
    for half in (part[f"{kind} {case}"] for part in (seen.sharded0, seen.sharded1)):
        assert half["alphas resumed"].equal(half["alphas"][25:])
        for name, weight in half["weights"].items():
            assert half["resumed"][name].equal(weight), name
        assert any(not half["back"][name].equal(weight) for name, weight in half["weights"].items())


def assert_second_half(one, *halves):
    """The same draws, losses, mixtures and weights as the steps from 25 on of a training by one process."""
    wanted = {draw: loss for draw, loss in one["losses"].items() if draw[0] >= 25}
    assert sum(len(half["losses"]) for half in halves) == len(wanted) == 25 * 8
    found = {draw: loss for half in halves for draw, loss in half["losses"].items()}
    assert found == pytest.approx(wanted, rel=1e-5)
    for half in halves:
        torch.testing.assert_close(half["alphas"], one["alphas"][25:], rtol=0, atol=1e-12)
        for name, weight in one["weights"].items():
            torch.testing.assert_close(half["weights"][name], weight, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_a_training_of_one_process_goes_on_with_two(seen, kind):
    halves = [getattr(seen, f"{kind}{rank}")["goes on from one"] for rank in (0, 1)]
    assert_second_half(seen.one0[seen.script.ELASTIC], *halves)


@pytest.mark.filterwarnings("ignore:.*Please add the following callbacks.*")
@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_a_training_of_two_processes_goes_on_with_one(seen, small_job, kind):
    assert_second_half(seen.one0[seen.script.ELASTIC], seen.script.goes_on("one", kind, seen.folder, small_job))


TORN = {
    "without its last file": (lambda place: (place / "meta.pt").unlink(), "meta.pt"),
    "without its table": (lambda place: (place / ".metadata").unlink(), ".metadata"),
    "a part is missing": (lambda place: (place / "__1_0.distcp").unlink(), "__1_0.distcp"),
    "a part is short": (lambda place: os.truncate(place / "__1_0.distcp", 10), "__1_0.distcp has 10 of"),
    "its table is half": (lambda place: os.truncate(place / ".metadata", 100), "truncated"),
}


@pytest.mark.parametrize("how", TORN)
def test_a_torn_folder_is_skipped_and_said(seen, tmp_path, caplog, how):
    first, second = (tmp_path / "checkpoints" / name for name in ("step25.ckpt", "last.ckpt"))
    for place in (first, second):
        shutil.copytree(seen.folder / "fsdp2 folders tied" / "checkpoints" / "at25.ckpt", place)
    assert newest_checkpoint(tmp_path) == second
    tear, said = TORN[how]
    tear(second)
    assert newest_checkpoint(tmp_path) == first
    assert f"{second} cannot be read" in caplog.text
    assert said in caplog.text


def test_a_folder_is_for_fsdp2_alone(seen, small_job):
    place = seen.folder / "fsdp2 folders tied" / "checkpoints" / "at25.ckpt"
    with pytest.raises(MixalignError, match=r"at25.ckpt is a folder with parts of FSDP2's processes"):
        seen.script.long_run("one", "tied", seen.folder, small_job, resume=place)


def test_sharded_checkpoints_hold_trained_weights_only(seen):
    file = seen.folder / "fsdp2 lora" / "checkpoints" / "at25.ckpt"
    checkpoint = torch.load(file, weights_only=True)
    assert checkpoint["state_dict"]
    assert all("lora_" in name for name in checkpoint["state_dict"])
    back = seen.sharded0["fsdp2 lora"]["back"]
    for name, weight in checkpoint["state_dict"].items():
        assert back[name.removeprefix("model.")].equal(weight)
    folder = seen.folder / "fsdp2 folders lora" / "checkpoints" / "at25.ckpt"
    assert len(list(folder.glob("*.distcp"))) == 2


@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_a_process_without_a_validation_row_does_not_hang(seen, kind):
    assert seen.refusals0[kind] == seen.refusals1[kind] == [1]


@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_a_mixture_that_differs_is_refused(seen, kind):
    for half in (seen.refusals0, seen.refusals1):
        assert "mixture is not the same on all 2 processes at step 25" in half[f"{kind} refused"]


@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_early_stopping_ends_all_processes_and_they_stay_ended(seen, kind):
    assert seen.refusals0[f"{kind} stopped"] == seen.refusals1[f"{kind} stopped"] == [4, 4]


def test_every_process_gets_as_many_batches(dpo_job):
    """21 rows on 4 processes are 6, 5, 5 and 5: with batches of 5, two on the first process and one on the others."""
    loaders = [EvenBatches(EvalLoader(dpo_job.validation, 5, rank, 4), 4) for rank in range(4)]
    assert [len(loader) for loader in loaders] == [2, 2, 2, 2]
    batches = [list(loader) for loader in loaders]
    assert [[is_filler(batch) for batch in own] for own in batches] == [[False, False]] + 3 * [[False, True]]
    rows = [int(r) for own in batches for batch in own if not is_filler(batch) for r in batch["row_id_B"]]
    assert sorted(rows) == sorted(int(r) for table in dpo_job.validation for r in table.row_id_N)


def test_no_rows_are_no_batches():
    assert list(EvenBatches(EvalLoader([], 5, 1, 2), 2)) == []


def test_a_model_without_named_layers_is_not_spread():
    with pytest.raises(MixalignError, match="does not name its layers"):
        shard(nn.Module(), nn.Linear(2, 2), None)


def test_lightnings_distributed_sampler_is_refused():
    with pytest.raises(MixalignError, match="must be false, as Lightning would replace"):
        Fit(1, 1, trainer={"use_distributed_sampler": True})
