"""Every argument of Lightning's Trainer is known: it passes, or is refused with what to set in its place."""

import inspect
import re

import lightning as L
import pytest

from mixalign.config.compose import RENAMED, compose_config, compose_settings
from mixalign.config.settings import TrainerSettings
from mixalign.errors import MixalignError
from mixalign.training.trainer_arguments import BY_STAGES, PASSED, REFUSED, check_arguments, why_not

ARGUMENTS = {*inspect.signature(L.Trainer.__init__).parameters} - {"self"}
KEY = re.compile(r"`([a-z_]+)[.`]")


def test_each_argument_of_the_trainer_is_known_and_no_other():
    assert {*PASSED} | {*REFUSED} == ARGUMENTS
    assert not {*PASSED} & {*REFUSED}
    assert {*BY_STAGES} <= ARGUMENTS


def test_what_passes_are_the_keys_of_the_group():
    assert {*PASSED} | {"timeout"} == {*TrainerSettings.__dataclass_fields__} == {*compose_config([]).trainer}


@pytest.mark.parametrize("name", sorted(REFUSED))
@pytest.mark.parametrize("plus", ["", "+"])
def test_what_is_refused_says_what_to_do(name, plus):
    if f"trainer.{name}" in RENAMED:
        return
    with pytest.raises(MixalignError) as caught:
        compose_settings([f"{plus}trainer.{name}=1"])
    message = str(caught.value)
    assert f"`trainer.{name}` cannot be set, because mixalign sets it: {REFUSED[name]}." in message
    assert "Did you mean" not in message


@pytest.mark.parametrize("name", sorted({*REFUSED} - {"max_time"}))
def test_the_keys_that_are_named_are_keys(name):
    config = {*compose_config([])}
    for key in KEY.findall(REFUSED[name]):
        assert key in config | {"trainer", "model"}, key


@pytest.mark.parametrize("plus", ["", "+"])
def test_an_unknown_one_gets_the_nearest(plus):
    for wrong, near in (("precison", "precision"), ("limit_val_batch", "limit_val_batches"), ("timeot", "timeout")):
        with pytest.raises(MixalignError, match=f"`trainer.{wrong}` is no setting. Did you mean `{near}`"):
            compose_settings([f"{plus}trainer.{wrong}=1"])
    assert why_not("devices") is None


def test_stages_may_set_what_users_may_not():
    check_arguments(BY_STAGES, also=BY_STAGES)
    with pytest.raises(MixalignError, match=r"`trainer.enable_progress_bar` cannot be set"):
        check_arguments(BY_STAGES)


def test_trials_of_kernels_and_the_same_kernels_every_time_exclude_each_other():
    with pytest.raises(MixalignError, match=r"`trainer.benchmark=true` .* `trainer.deterministic` .*Leave one"):
        compose_settings(["trainer.benchmark=true", "trainer.deterministic=true"])


def test_passed_arguments_reach_lightning():
    assert compose_settings(["trainer.benchmark=true"]).trainer.arguments()["benchmark"] is True
    assert {"benchmark", "detect_anomaly"}.isdisjoint(compose_settings([]).trainer.arguments())
