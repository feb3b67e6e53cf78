"""Whatever a configuration may hold, a setting is taken or refused by its key."""

from math import inf, isinf, isnan, nan

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixalign.checks import (
    check_choice,
    check_flag,
    check_list,
    check_mapping,
    check_number,
    check_numbers,
    check_pattern,
    check_text,
)
from mixalign.errors import MixalignError

few = settings(max_examples=100, deadline=None, derandomize=True)

ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from("ab"),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
    max_leaves=6,
)


def taken(check, value, *arguments, **options) -> bool:
    try:
        check("group.key", value, *arguments, **options)
    except MixalignError as error:
        message = str(error)
    else:
        return True
    assert message.startswith(("`group.key` is ", "`group.key=", "`group.key["))
    return False


@given(ANY, st.booleans(), st.booleans(), st.booleans(), st.booleans())
@few
def test_a_range_takes_its_numbers_and_nothing_else(value, finite, whole, null, is_open):
    is_number = isinstance(value, int if whole else int | float) and not isinstance(value, bool) and not isnan(value)
    good = is_number and (0 < value < 5 if is_open else 0 <= value <= 5)
    options = {"finite": finite, "whole": whole, "null": null, "open_low": is_open, "open_high": is_open}
    assert taken(check_number, value, 0, 5, **options) == (good or (value is None and null))


@given(ANY, st.booleans())
@few
def test_without_ends_every_number_is_taken(value, finite):
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and not isnan(value)
    assert taken(check_number, value, finite=finite) == (is_number and not (finite and isinf(value)))


@pytest.mark.parametrize(("value", "finite", "good"), [(inf, True, False), (inf, False, True), (-inf, False, False)])
def test_infinity_is_taken_where_it_means_something(value, finite, good):
    assert taken(check_number, value, 0, finite=finite) == good


@pytest.mark.parametrize(
    ("arguments", "options", "wanted"),
    [
        ((), {}, "a number"),
        ((), {"null": True}, "a number, or null"),
        ((0,), {}, "a number from 0 on"),
        ((0,), {"open_low": True}, "a number above 0"),
        ((1,), {"whole": True}, "a whole number from 1 on"),
        ((1,), {"whole": True, "null": True}, "a whole number from 1 on, or null"),
        ((0, 1), {}, "a number from 0 to 1"),
        ((0, 0.5), {"open_high": True}, "a number from 0 to 0.5, but not 0.5"),
        ((0, 1), {"open_low": True, "null": True}, "a number from 0 to 1, but not 0, or null"),
        ((0, 1), {"open_low": True, "open_high": True}, "a number from 0 to 1, but not 0 or 1"),
        ((0, 2**32 - 1), {"whole": True}, "a whole number from 0 to 4294967295"),
        ((-inf, 1), {}, "a number up to 1"),
        ((-inf, 1), {"open_high": True}, "a number below 1"),
    ],
)
def test_the_message_says_which_numbers_are_meant(arguments, options, wanted):
    with pytest.raises(MixalignError) as caught:
        check_number("mixer.eta", nan, *arguments, **options)
    assert str(caught.value) == f"`mixer.eta` is nan, but must be {wanted}."


def test_the_message_ends_with_what_to_do():
    with pytest.raises(MixalignError) as caught:
        check_number("optimizer.lr", -1, 0, 1, why="5e-5 is usual.")
    assert str(caught.value) == "`optimizer.lr` is -1, but must be a number from 0 to 1. 5e-5 is usual."


@given(ANY)
@few
def test_lists_of_numbers(value):
    def good(x):
        return isinstance(x, int | float) and not isinstance(x, bool) and 0 <= x <= 1

    is_list = isinstance(value, list) and len(value) > 0 and all(map(good, value))
    assert taken(check_numbers, value, 0, 1) == is_list
    assert taken(check_numbers, value, 0, 1, length=2) == (is_list and len(value) == 2)


def test_a_list_names_what_is_wrong_in_it():
    with pytest.raises(MixalignError, match=r"^`optimizer.betas\[1\]` is 1, but must be a number from 0 to 1, but not"):
        check_numbers("optimizer.betas", [0.9, 1], 0, 1, length=2, open_high=True)
    with pytest.raises(MixalignError, match=r"^`optimizer.betas` is \[0.9\], but must be a list of 2 numbers.$"):
        check_numbers("optimizer.betas", [0.9], length=2)
    with pytest.raises(MixalignError, match=r"^`merge.weights` is \(\), but must be a list of one or more numbers.$"):
        check_numbers("merge.weights", ())


@given(ANY)
@few
def test_flags_words_and_texts(value):
    is_text = isinstance(value, str) and value != ""
    assert taken(check_flag, value) == isinstance(value, bool)
    assert taken(check_choice, value, ("a", "b")) == (value in ("a", "b"))
    assert taken(check_choice, value, iter("ab"), null=True) == (value in ("a", "b", None))
    assert taken(check_choice, value, ("a", True, False)) == (value == "a" or isinstance(value, bool))
    assert taken(check_text, value) == is_text
    assert taken(check_text, value, null=True) == (is_text or value is None)


@given(ANY, st.booleans())
@few
def test_lists_and_mappings(value, null):
    assert taken(check_list, value, null=null) == (isinstance(value, list) or (value is None and null))
    assert taken(check_mapping, value, null=null) == (isinstance(value, dict) or (value is None and null))


@pytest.mark.parametrize(
    ("value", "known", "null", "said"),
    [
        ("cosin", ("constant", "linear", "cosine"), False, "`x.y` is 'cosin'. Did you mean `cosine`?"),
        (["a"], ("last", "best"), False, "`x.y` is ['a']. Known: best, last."),
        (1, ("auto", True, False), False, "`x.y` is 1. Known: auto, false, true."),
        ("mixed", ("multinomial",), True, "`x.y` is 'mixed'. Known: multinomial. Or set it to null."),
    ],
)
def test_a_word_that_is_not_known(value, known, null, said):
    with pytest.raises(MixalignError) as caught:
        check_choice("x.y", value, known, null=null)
    assert str(caught.value) == said


def test_a_text_that_is_none():
    with pytest.raises(MixalignError, match=r"^`name` is 3, but must be a text that is not empty. Put quotes around"):
        check_text("name", 3)
    with pytest.raises(MixalignError, match=r"^`model.path` is '', but must be a text that is not empty. Give a hub"):
        check_text("model.path", "", why="Give a hub id.")


@pytest.mark.parametrize(("value", "null", "good"), [(None, True, True), (None, False, False), ("q|v", False, True)])
def test_regular_expressions(value, null, good):
    assert taken(check_pattern, value, null=null) == good


@pytest.mark.parametrize(("value", "said"), [("[", "`x=[` is no regular expression: unt"), (3, "`x` is 3, but must")])
def test_a_text_that_is_no_regular_expression(value, said):
    with pytest.raises(MixalignError) as caught:
        check_pattern("x", value)
    assert str(caught.value).startswith(said)
