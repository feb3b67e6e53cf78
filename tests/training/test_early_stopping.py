"""Callbacks of the user beside mixalign's own, first of all Lightning's EarlyStopping on the validation's summary."""

import pytest
import torch
import yaml
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint

from mixalign.errors import MixalignError
from mixalign.mixers.ama_r import AMAR
from mixalign.training.callbacks.save_newest import SaveNewest
from mixalign.training.checkpoints import LAST, STOPPED

EXCESS = "eval/worst_excess"
pytestmark = pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")


class Validations(Callback):
    """The steps that were validated, and the worst excess there."""

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.values: list[float] = []

    def on_validation_end(self, trainer, pl_module) -> None:
        self.steps.append(trainer.global_step)
        self.values.append(pl_module.summary[EXCESS])


def stopping(**settings) -> EarlyStopping:
    """Never content: a value must be lower by 100 nats to count."""
    return EarlyStopping(EXCESS, min_delta=100.0, patience=2, **settings)


def run(job, folder, *more: Callback, every: int | None = None, resume=None, **settings):
    """As a run puts them together: the user's callbacks after Mixing, and before those that save."""
    seen = Validations()
    keep = ModelCheckpoint(
        folder, "step{step}", monitor=EXCESS, save_on_train_epoch_end=False, auto_insert_metric_name=False
    )
    callbacks = [seen, *more, keep, SaveNewest(folder, every)]
    settings = {"steps": 12, "val_every": 2, "lr": 1e-3} | settings
    return job.run(folder, AMAR(eta=0.5), callbacks=callbacks, resume=resume, **settings), seen, keep


def last(folder) -> dict:
    return torch.load(folder / LAST, map_location="cpu", weights_only=True)


@pytest.mark.parametrize("micro", [None, 4], ids=["whole", "accumulated"])
@pytest.mark.parametrize(("val_every", "stops"), [(2, 6), (1, 3), (5, 12)])
def test_it_ends_a_training_that_is_validated_and_saved(dpo_job, tmp_path, micro, val_every, stops):
    """The first value is the best one, and the second after it the last; every 5 steps there are only three."""
    rule = stopping()
    trained, seen, keep = run(dpo_job, tmp_path, rule, micro=micro, val_every=val_every, every=7)
    assert trained.trainer.global_step == trained.mixing.updates == stops
    assert seen.steps[-1] == stops
    assert last(tmp_path)["global_step"] == stops, "saved, though 7 does not divide the step"
    assert keep.best_model_path
    assert (rule.wait_count, float(rule.best_score)) == (2, pytest.approx(seen.values[0]))
    assert last(tmp_path)["callbacks"][rule.state_key]["wait_count"] == 2


@pytest.mark.parametrize("from_step", [3, 4, 5])
def test_a_training_goes_on_with_its_counts(dpo_job, tmp_path, from_step):
    """Saved before, at and after a validation: the same end, weights and mixtures as without a break."""
    whole, seen, _ = run(dpo_job, tmp_path / "whole", stopping())
    assert seen.steps == [2, 4, 6]

    class Break(Callback):
        def on_train_batch_start(self, trainer, *_) -> None:
            if trainer.global_step == from_step:
                raise KeyError("power cut")

    with pytest.raises(KeyError, match="power cut"):
        run(dpo_job, tmp_path / "cut", Break(), stopping(), every=1)
    rule = stopping()
    rest, _, _ = run(dpo_job, tmp_path / "cut", rule, every=1, resume=tmp_path / "cut" / LAST)
    assert rest.trainer.global_step == 6
    assert rule.wait_count == 2
    assert rest.mixing.mix.alpha_K.equal(whole.mixing.mix.alpha_K)
    for name, weight in whole.weights().items():
        assert rest.weights()[name].equal(weight), name


def test_a_stopped_training_stays_stopped(dpo_job, tmp_path):
    """It was killed between its last step and its evaluation."""
    whole, _, _ = run(dpo_job, tmp_path, stopping())
    assert last(tmp_path)[STOPPED]
    rest, seen, keep = run(dpo_job, tmp_path, stopping(), resume=tmp_path / LAST)
    assert (rest.trainer.global_step, rest.mixing.updates, seen.steps) == (6, 6, [])
    assert keep.best_model_path
    for name, weight in whole.weights().items():
        assert rest.weights()[name].equal(weight), name


def test_a_training_at_its_end_was_not_stopped(dpo_job, tmp_path):
    run(dpo_job, tmp_path, steps=4)
    assert not last(tmp_path)[STOPPED]


def without_specialists(job):
    for table in (*job.train, *job.validation):
        del table.columns["specialist_loss"]
    return job


def watch(job, folder, monitor):
    return job.run(folder, steps=1, callbacks=[EarlyStopping(monitor)])


def test_what_is_not_measured_is_said_before_the_first_step(dpo_job, tmp_path):
    job = without_specialists(dpo_job)
    wanted = rf"EarlyStopping watches `{EXCESS}`.*no specialists' losses.*eval/worst_loss.*`specialists.train=always`"
    with pytest.raises(MixalignError, match=wanted):
        watch(job, tmp_path, EXCESS)
    assert watch(job, tmp_path, "eval/worst_loss").trainer.global_step == 1
    with pytest.raises(MixalignError, match=r"watches `eval/best`, but nothing gives it.*to one of eval/mean_loss"):
        watch(job, tmp_path, "eval/best")


def test_without_validation_rows_there_is_nothing_to_watch(dpo_job, tmp_path):
    dpo_job.validation = []
    with pytest.raises(MixalignError, match=r"no validation rows.*`data.validation_fraction`"):
        watch(dpo_job, tmp_path, "eval/worst_loss")


def test_the_presets_are_what_lightning_takes(pytestconfig):
    folder = pytestconfig.rootpath / "conf" / "callbacks"
    assert yaml.safe_load((folder / "none.yaml").read_text()) == {}
    (node,) = yaml.safe_load((folder / "early_stopping.yaml").read_text()).values()
    assert node.pop("_target_") == "lightning.pytorch.callbacks.EarlyStopping"
    rule = EarlyStopping(**node)
    assert (rule.monitor, rule.patience, rule.mode) == (EXCESS, 3, "min")
