"""The best checkpoint is found by its name in the folder where the run is, and a missing one is said at once."""

import shutil
from contextlib import nullcontext

import pytest
import torch
from lightning.pytorch.callbacks import Callback

from mixalign.errors import MixalignError
from mixalign.mixers.ama_s import AMAS
from mixalign.training.callbacks.best_checkpoint import BestCheckpoint
from mixalign.training.callbacks.save_newest import SaveNewest

pytestmark = pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
MONITOR = "eval/worst_excess"


class Cut(Callback):
    """Ends a training in the middle."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer, *_) -> None:
        if trainer.global_step == self.step:
            raise KeyError("power cut")


@pytest.fixture
def train(dpo_job):
    """Trains in a folder for 6 steps, or to the power cut after step `cut`. Gives the callback."""

    def go(folder, cut=None, resume=None, monitor=MONITOR, **more):
        best = BestCheckpoint(folder, monitor, resumed=None if resume is None else resume.parent, **more)
        callbacks = [best, SaveNewest(folder), *([Cut(cut)] if cut else [])]
        with pytest.raises(KeyError, match="power cut") if cut else nullcontext():
            dpo_job.run(folder, AMAS(), steps=6, val_every=1, callbacks=callbacks, resume=resume, lr=0.3)
        return best

    return go


def names(folder):
    return sorted(path.name for path in folder.glob("*.ckpt"))


def test_a_moved_folder_keeps_its_best_checkpoint(train, tmp_path):
    whole = train(tmp_path / "whole").exported()
    assert whole["step"] < 4, "the last step is the best one, so the test would show nothing"
    train(tmp_path / "old", 4)
    state = torch.load(tmp_path / "old" / "last.ckpt", weights_only=True)["callbacks"]["BestCheckpoint"]
    assert str(tmp_path) not in str(state)
    shutil.copytree(tmp_path / "old", tmp_path / "new")
    before = {path: path.read_bytes() for path in (tmp_path / "old").glob("*.ckpt")}
    best = train(tmp_path / "new", resume=tmp_path / "new" / "last.ckpt")
    assert best.exported() == whole
    assert torch.load(tmp_path / "new" / "last.ckpt", weights_only=True)["global_step"] == 6
    assert names(tmp_path / "new") == names(tmp_path / "whole")
    assert before == {path: path.read_bytes() for path in (tmp_path / "old").glob("*.ckpt")}


def test_a_run_that_goes_on_from_anothers_checkpoint_copies_the_best_one(train, tmp_path):
    first = train(tmp_path / "first", 4).exported()
    train(tmp_path / "second", resume=tmp_path / "first" / "last.ckpt")
    name = f"step{first['step']}.ckpt"
    assert (tmp_path / "second" / name).read_bytes() == (tmp_path / "first" / name).read_bytes()


def test_a_missing_best_checkpoint_is_said_before_anything_is_trained(train, tmp_path):
    best = train(tmp_path, 4)
    best.best.unlink()
    with pytest.raises(MixalignError, match=r"step\d.ckpt by `eval/worst_excess`, is missing. .* `export=last`"):
        best.exported()
    before = (tmp_path / "last.ckpt").read_bytes()
    with pytest.raises(MixalignError, match=r"step\d.ckpt by `eval/worst_excess`, is missing. .* `export=last`"):
        train(tmp_path, resume=tmp_path / "last.ckpt")
    assert (tmp_path / "last.ckpt").read_bytes() == before
    train(tmp_path, resume=tmp_path / "last.ckpt", wanted=False)


def test_scores_of_another_monitor_are_not_compared(train, tmp_path, caplog):
    train(tmp_path, 3)
    best = train(tmp_path, resume=tmp_path / "last.ckpt", monitor="eval/mean_loss")
    assert "chosen by `eval/worst_excess`; by `eval/mean_loss` the choice begins anew" in caplog.text
    assert best.exported()["step"] in (4, 5, 6)


def test_a_checkpoint_of_an_older_version_has_lightnings_names_and_paths(train, tmp_path):
    wanted = train(tmp_path, 4).exported()
    content = torch.load(tmp_path / "last.ckpt", weights_only=True)
    state = content["callbacks"].pop("BestCheckpoint")
    far = {key: f"/gone/{state[key]}" for key in ("best_model_path", "kth_best_model_path") if state[key]}
    state |= far | {"dirpath": "/gone", "best_k_models": {f"/gone/{k}": v for k, v in state["best_k_models"].items()}}
    key = "ModelCheckpoint{'monitor': 'eval/worst_excess', 'mode': 'min'}"
    torch.save(content | {"callbacks": content["callbacks"] | {key: state}}, tmp_path / "last.ckpt")
    with pytest.warns(UserWarning, match="callbacks used to create the checkpoint"):
        assert train(tmp_path, resume=tmp_path / "last.ckpt").exported() == wanted
