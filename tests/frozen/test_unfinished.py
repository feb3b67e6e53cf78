"""A model of the cache whose training is cut off goes on from its checkpoint, and is the one of a calm training."""

import os
import signal
from pathlib import Path

import pytest

from mixalign.errors import Stopped
from mixalign.training.callbacks import save_newest
from mixalign.training.callbacks.save_newest import SaveByTime, SaveNewest
from tests.tiny_runs import train_from_overrides

MODELS = "*/*/model/model.safetensors"


def weights(cache: Path) -> dict[str, bytes]:
    return {str(path.relative_to(cache)): path.read_bytes() for path in cache.glob(MODELS)}


@pytest.fixture
def cut(monkeypatch):
    """Cuts trainings of the cache off behind a step that was saved: the first, the second or a later one of them."""

    def go(which: int, how: str) -> None:
        save, seen = SaveNewest.on_train_batch_end, []

        def saved(self, trainer, *rest):
            save(self, trainer, *rest)
            if "unfinished" not in str(self.path) or trainer.global_step != 2:
                return
            seen.append(self.path)
            if len(seen) == which and how == "kill":
                raise RuntimeError("power cut")
            if len(seen) == which:
                os.kill(os.getpid(), signal.SIGTERM)

        monkeypatch.setattr(SaveNewest, "on_train_batch_end", saved)

    return go


@pytest.mark.long
@pytest.mark.parametrize(("how", "which", "title"), [("kill", 1, "reference"), ("SIGTERM", 3, "specialist reverse")])
def test_it_goes_on_bit_for_bit(tiny, finished, cache, cut, tmp_path, caplog, monkeypatch, how, which, title):
    overrides = tiny("mixer=ama_s", f"cache_dir={tmp_path / 'cache'}", "save_every=1")
    cut(which, how)
    with pytest.raises((Stopped, RuntimeError)) as caught:
        train_from_overrides(overrides, str(tmp_path / "run"))
    left = list((tmp_path / "cache" / "unfinished").glob("*/checkpoints/last.ckpt"))
    assert len(left) == 1
    if how == "SIGTERM":
        said = (
            f"stopped by SIGTERM in the training of the {title}; saved {left[0]}. The same command goes on from there."
        )
        assert (caught.value.text, caught.value.code) == (said, 143)
    monkeypatch.undo()
    caplog.set_level("INFO", "mixalign")
    train_from_overrides(overrides, str(tmp_path / "run"))
    assert f"{title} goes on from {left[0]}" in caplog.messages
    assert sum(" goes on from " in message for message in caplog.messages) == 1
    assert list((tmp_path / "cache" / "unfinished").iterdir()) == []
    made = weights(tmp_path / "cache")
    assert len(made) == 4
    assert made == {name: content for name, content in weights(cache).items() if name in made}
    assert (tmp_path / "run" / "eval.json").read_bytes() == (finished / "eval.json").read_bytes()


@pytest.mark.long
def test_the_best_step_so_far_moves_with_the_cache(tiny, cut, tmp_path, monkeypatch):
    """At a rate that ruins specialists the first step is their best one; the cut is behind it, and so is the move."""
    ruinous = ("specialists.lr=0.05", "optimizer.warmup_steps=0", "specialists.export=best", "specialists.steps=4")

    def train(cache: str) -> dict[str, bytes]:
        own = (*ruinous, "mixer=ama_s", "save_every=1", f"cache_dir={tmp_path / cache}")
        train_from_overrides(tiny(*own), str(tmp_path / f"run_{cache}"))
        return {name: content for name, content in weights(tmp_path / cache).items() if name.startswith("specialists")}

    whole = train("whole")
    cut(3, "kill")  # of the reference and two specialists
    with pytest.raises(RuntimeError, match="power cut"):
        train("old")
    monkeypatch.undo()
    (tmp_path / "old").rename(tmp_path / "new")
    assert train("new") == whole
    assert len(whole) == 3


def test_without_save_every_the_clock_says_when(dpo_job, tmp_path, monkeypatch):
    """And saving takes a small share of the time: a pause is fifty times as long as the last save took."""
    now = [0.0]
    monkeypatch.setattr(save_newest.time, "monotonic", lambda: now[0])
    saved = []

    class Slow(SaveByTime):
        def on_train_batch_end(self, trainer, *rest) -> None:
            now[0] += 20  # seconds of a step
            super().on_train_batch_end(trainer, *rest)

    def save(trainer, path, *rest) -> None:
        saved.append(trainer.global_step)
        now[0] += 1.5

    monkeypatch.setattr("lightning.Trainer.save_checkpoint", save)
    dpo_job.run(tmp_path, steps=10, callbacks=[Slow(tmp_path)])
    assert saved == [2, 6, 10]  # after 40 s, and then when 75 s are over
