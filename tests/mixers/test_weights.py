"""Whatever a configuration may hold, fixed weights are taken as shares or refused by their key."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mixalign.errors import MixalignError
from mixalign.mixers.weights import check_weights, in_order, resolve

ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just("uniform"),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
    max_leaves=6,
)


@given(ANY)
@settings(max_examples=100, deadline=None, derandomize=True)
def test_weights_that_are_taken_are_shares(value):
    """Of as many tasks as there are weights; names are put in order first."""
    try:
        check_weights("mixer.key", value)
    except MixalignError as error:
        message = str(error)
    else:
        tasks = [f"{n}" for n in range(3)] if isinstance(value, str) else [*value] if isinstance(value, dict) else value
        rows_K = torch.ones(len(tasks), dtype=torch.float64)
        share_K = resolve("mixer.key", in_order("mixer.key", value, tasks), rows_K)
        assert share_K.sum().item() == pytest.approx(1)
        assert (share_K >= 0).all()
        return
    assert message.startswith("`mixer.key` is ")
