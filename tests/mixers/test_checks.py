"""Whatever a configuration may hold, a setting is taken or refused by name."""

from math import inf, isnan

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mixalign.errors import MixalignError
from mixalign.mixers.checks import check_choice, check_flag, check_range
from mixalign.mixers.weights import check_weights, in_order, resolve

few = settings(max_examples=100, deadline=None, derandomize=True)

ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just("uniform"),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
    max_leaves=6,
)


def taken(check, *arguments, **options) -> bool:
    try:
        check("key", *arguments, **options)
    except MixalignError as error:
        said = str(error)
    else:
        return True
    assert said.startswith("`mixer.key` is ")
    return False


@given(ANY, st.booleans(), st.booleans())
@few
def test_a_range_takes_its_numbers_and_nothing_else(value, finite, whole):
    is_number = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
    good = is_number and not isnan(value) and 0 <= value <= 5
    assert taken(check_range, value, 0, 5, finite=finite, whole=whole) == good


@pytest.mark.parametrize(("value", "finite", "good"), [(inf, True, False), (inf, False, True), (-inf, False, False)])
def test_infinity_is_taken_where_it_means_something(value, finite, good):
    assert taken(check_range, value, 0, finite=finite) == good


@given(ANY)
@few
def test_flags_and_words(value):
    assert taken(check_flag, value) == isinstance(value, bool)
    assert taken(check_choice, value, ("a", "b")) == (value in ("a", "b"))


@given(ANY)
@few
def test_weights_that_are_taken_are_shares(value):
    """Of as many tasks as there are weights; names are put in order first."""
    if not taken(check_weights, value):
        return
    tasks = [f"{n}" for n in range(3)] if isinstance(value, str) else [*value] if isinstance(value, dict) else value
    rows_K = torch.ones(len(tasks), dtype=torch.float64)
    share_K = resolve("key", in_order("key", value, tasks), rows_K)
    assert share_K.sum().item() == pytest.approx(1)
    assert (share_K >= 0).all()
