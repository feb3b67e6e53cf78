"""Changes of the target loss as the benefits predict them and as they come, by hand, and what is not believed."""

import pytest

from mixalign.runs.promises import actual_change, broken_promise, predicted_change, without_impossible

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


def test_what_is_no_number_is_not_believed():
    nan = entry(float("nan"))
    assert without_impossible(nan, 0.15) == {"a": 0.5, "b": 0.5}
    assert broken_promise(nan, {"a": 115, "b": 45}, 0.15, 0.1)
