"""Changes of the target loss as the benefits predict them and as they come, by hand, and what is not believed."""

from math import inf, nan

import pytest

from mixalign.errors import MixalignError
from mixalign.runs.promises import actual_change, broken_promise, no_loss, predicted_change, without_impossible

VOLUMES = {"a": 100, "b": 50}


def entry(scale=1.0, **more):
    """Mean benefits of 0.3 and -0.2 nats on a loss of 0.5, times `scale`."""
    by_target = {"a": {"a": 0.5, "b": -0.3}, "c": {"a": 0.1, "b": -0.1}}
    scaled = {table: {task: scale * x for task, x in row.items()} for table, row in by_target.items()}
    loss = {"a": 0.4, "c": 0.6}
    known = {"volumes": VOLUMES, "target_loss": loss, "mean_target_loss": 0.5, "benefit_by_target": scaled}
    return known | {"confidence": {"a": 1.0, "b": 0.95}} | more


def test_the_predicted_change_is_that_of_the_volumes_that_came():
    """+10 % of a and -20 % of b."""
    found = predicted_change(entry(), {"a": 110, "b": 40})
    assert found["predicted_change"] == pytest.approx({"a": -0.05 - 0.06, "c": -0.01 - 0.02})
    assert found["mean_predicted_change"] == pytest.approx(-0.07)


@pytest.mark.parametrize("by_target", [None, {}])
def test_benefits_that_are_no_nats_predict_nothing(by_target):
    plain = entry(benefit_by_target=by_target) if by_target is not None else entry()
    if by_target is None:
        del plain["benefit_by_target"]
    assert predicted_change(plain, VOLUMES) == {}
    assert broken_promise(plain, {"a": 115, "b": 40}, 0.15, 0.1) == ""
    assert without_impossible(plain, 0.15) == plain["confidence"]


def test_the_actual_change_is_since_the_round_before():
    now = {"target_loss": {"a": 0.3, "c": 0.7}, "mean_target_loss": 0.5}
    found = actual_change(entry(), now)
    assert found["change"] == pytest.approx({"a": -0.1, "c": 0.1})
    assert found["mean_change"] == 0


def test_what_would_move_the_loss_by_more_than_itself_is_refused():
    """15 % of 4.5 nats are 0.675, and of 3 nats 0.45, on a loss of 0.5."""
    big = entry(15.0)
    assert without_impossible(big, 0.15) == {"a": 0.5, "b": 0.95}
    said = broken_promise(big, {"a": 115, "b": 45}, 0.15, 0.1)
    assert "15% more or less of `a` would move the target loss by 0.675 nats, and it is 0.5" in said
    assert "the volumes stay" in said
    assert "Raise `influence.damping` to 1 or more" in said
    assert without_impossible(entry(), 0.15) == {"a": 1.0, "b": 0.95}
    assert broken_promise(entry(), {"a": 115, "b": 45}, 0.15, 0.1) == ""


def test_a_sum_of_many_small_changes_is_refused_as_well():
    """+15 % of 3 nats and -10 % of -2 nats: 0.65 in all."""
    said = broken_promise(entry(10.0), {"a": 115, "b": 45}, 0.15, 0.1)
    assert "the change of volumes would move the target loss by -0.65 nats" in said


@pytest.mark.parametrize("value", [nan, inf, -inf])
@pytest.mark.parametrize("in_nats", [True, False])
def test_a_benefit_that_is_not_finite_is_not_believed(value, in_nats):
    """Also where benefits are no nats, under the curvature `identity`."""
    bad = entry(benefit={"a": value, "b": -0.2})
    bad["benefit_by_target"]["c"]["a"] = value
    if not in_nats:
        del bad["benefit_by_target"]
    assert without_impossible(bad, 0.15) == {"a": 0.5, "b": 0.95}
    said = broken_promise(bad, {"a": 115, "b": 45}, 0.15, 0.1)
    assert said.startswith("the benefit of `a` is not finite, so the volumes stay. ")


def test_a_target_loss_that_is_not_finite_ends_the_rounds_and_refuses_the_first():
    lost = {"target_loss": {"a": 0.4, "c": inf, "d": nan}, "mean_target_loss": nan}
    said = "the loss on target rows of `c`, `d` is not finite after round 1"
    assert no_loss(entry(round=1)) == no_loss(entry(round=0)) == ""
    assert no_loss(lost | {"round": 1}) == said
    with pytest.raises(MixalignError, match=r"^The loss on target rows of `c`, `d` is not finite after round 0, so"):
        no_loss(lost | {"round": 0})
