"""`specialists.patience` ends a training whose validation loss no longer falls, and keeps its best step."""

import csv
import json

import pytest

from mixalign.config.compose import compose_settings
from mixalign.errors import MixalignError
from tests.frozen.test_unfinished import cut, weights  # noqa: F401, a fixture
from tests.tiny_runs import train_from_overrides

STEPS, PATIENCE = 10, 2
RUINOUS = ("specialists.lr=0.05", "optimizer.warmup_steps=0", f"specialists.steps={STEPS}", "specialists.export=best")


@pytest.fixture
def specialists(tiny, tmp_path):
    """Trains; gives the validation losses of each specialist by step, their weights, and their steps in all."""

    def go(name: str, *overrides: str) -> tuple[dict[str, list[float]], dict[str, bytes], int]:
        cache, run = tmp_path / name, tmp_path / f"run_{name}"
        train_from_overrides(tiny(*RUINOUS, "save_every=1", *overrides, f"cache_dir={cache}"), str(run))
        curves = {}
        for path in (cache / "specialists").glob("*/metrics.csv"):
            with path.open() as lines:
                looks = [row["eval/mean_loss"] for row in csv.DictReader(lines)]
            curves[path.parent.name.split("-")[0]] = [float(loss) for loss in looks if loss]
        cost = json.loads((run / "cost.json").read_text())
        return curves, weights(cache), cost["leans_on"]["specialists"]["steps"]

    return go


def last_step(losses: list[float]) -> int:
    """After which so many looks, one a step, have found no lower loss than the ones before."""
    best, waited = float("inf"), 0
    for step, loss in enumerate(losses, start=1):
        best, waited = (loss, 0) if loss < best else (best, waited + 1)
        if waited == PATIENCE:
            return step
    return len(losses)


@pytest.mark.long
def test_it_ends_where_its_curve_says_also_after_a_cut(specialists, cut, monkeypatch, caplog):  # noqa: F811
    whole, _, all_steps = specialists("whole")
    ends = {task: last_step(losses) for task, losses in whole.items()}
    assert all_steps == STEPS * len(whole)
    assert min(ends.values()) < STEPS
    caplog.set_level("INFO", "mixalign")
    short, made, steps = specialists("short", f"specialists.patience={PATIENCE}")
    assert short == {task: losses[: ends[task]] for task, losses in whole.items()}
    assert steps == sum(ends.values())
    said = [message for message in caplog.messages if "(specialists.patience)" in message]
    assert len(said) == sum(end < STEPS for end in ends.values())
    cut(3, "kill")  # of the reference and two specialists
    with pytest.raises(RuntimeError, match="power cut"):
        specialists("cut", f"specialists.patience={PATIENCE}")
    monkeypatch.undo()
    assert specialists("cut", f"specialists.patience={PATIENCE}") == (short, made, steps)


def test_the_last_step_is_not_what_patience_keeps():
    """Every verb says so, as none gets such settings."""
    with pytest.raises(MixalignError, match=r"`specialists\.patience=2` .* Set `specialists\.export=best`\."):
        compose_settings(["specialists.patience=2"])
