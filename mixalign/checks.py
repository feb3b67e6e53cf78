"""Checks of single settings: each takes the key as the user writes it, and refuses a value in one sentence.

Every one raises a MixalignError that names the key, the value, and what it may be.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from datetime import date, timedelta
from math import inf
from typing import Any

from mixalign.errors import MixalignError, did_you_mean

__all__ = [
    "check_choice",
    "check_date",
    "check_duration",
    "check_flag",
    "check_list",
    "check_mapping",
    "check_number",
    "check_numbers",
    "check_pattern",
    "check_text",
    "or_word",
]


DAYS = re.compile(r"(\d+):(\d\d?):(\d\d?):(\d\d?)")  # hours, minutes and seconds, as in Lightning's Timer
LONGEST = 1e7  # seconds, 115 days: what a timer of the standard library takes everywhere


def check_number(
    key: str,
    value: Any,
    low: float = -inf,
    high: float = inf,
    *,
    whole: bool = False,
    open_low: bool = False,
    open_high: bool = False,
    null: bool = False,
    finite: bool = True,
    why: str = "",
) -> None:
    """Refuses what is no number from `low` to `high`; True, False and nan are none.

    Args:
        whole: whether only whole numbers are meant.
        open_low, open_high: whether that end is left out.
        null: whether None is a value as well.
        finite: whether infinity is refused.
        why: sentences for the end of the message: a reason, or what to do.

    Raises:
        MixalignError: when the value is something else.
    """
    if value is None and null:
        return
    is_number = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
    inside = (
        is_number and low <= value <= high and not (open_low and value == low) and not (open_high and value == high)
    )
    if not inside or (finite and value in (inf, -inf)):
        wanted = _numbers(low, high, whole=whole, open_low=open_low, open_high=open_high) + ", or null" * null
        raise MixalignError(f"`{key}` is {value!r}, but must be {wanted}.{why and ' ' + why}")


def _numbers(low: float, high: float, *, whole: bool, open_low: bool, open_high: bool) -> str:
    """The numbers that are meant, in words: `a number above 0`, `a whole number from 1 to 8`."""
    kind = "a whole number" if whole else "a number"
    if low == -inf or high == inf:
        above = [f" above {low}" if open_low else f" from {low} on"] if low > -inf else []
        below = [f" below {high}" if open_high else f" up to {high}"] if high < inf else []
        return kind + "".join(above + below)
    left_out = [f"{end}" for end, is_open in ((low, open_low), (high, open_high)) if is_open]
    return f"{kind} from {low} to {high}" + (f", but not {' or '.join(left_out)}" if left_out else "")


def check_numbers(
    key: str, value: Any, low: float = -inf, high: float = inf, *, length: int = 0, **options: Any
) -> None:
    """Refuses what is no list of numbers, each as `check_number` takes it with the same options.

    Args:
        length: how many they must be; 0: any number of them, but not none.

    Raises:
        MixalignError: when it is no such list, naming the entry (`optimizer.betas[1]`) if it is only one of them.
    """
    if not isinstance(value, list | tuple) or len(value) != (length or max(1, len(value))):
        raise MixalignError(f"`{key}` is {value!r}, but must be a list of {length or 'one or more'} numbers.")
    for place, number in enumerate(value):
        check_number(f"{key}[{place}]", number, low, high, **options)


def check_choice(key: str, value: Any, known: Iterable[Any], *, null: bool = False) -> None:
    """Refuses what is not one of the known words, among which True and False may be.

    Args:
        null: whether None is a value as well.

    Raises:
        MixalignError: when it is none of them, with the closest one or all of them.
    """
    known = tuple(known)
    is_known = any(value == word and isinstance(value, bool) is isinstance(word, bool) for word in known)
    if not is_known and not (value is None and null):
        words = [str(word).lower() if isinstance(word, bool) else str(word) for word in known]
        other = " Or set it to null." if null else ""
        raise MixalignError(f"`{key}` is {value!r}. {did_you_mean(str(value), words)}{other}")


def check_flag(key: str, value: Any) -> None:
    """Refuses what is neither True nor False.

    Raises:
        MixalignError: when it is something else.
    """
    if not isinstance(value, bool):
        raise MixalignError(f"`{key}` is {value!r}, but must be true or false.")


def check_text(
    key: str, value: Any, *, null: bool = False, why: str = "Put quotes around it, or leave it out."
) -> None:
    """Refuses what is no text, and the empty text.

    Args:
        null: whether None is a value as well.
        why: sentences for the end of the message: a reason, or what to do.

    Raises:
        MixalignError: when it is something else.
    """
    if not (isinstance(value, str) and value) and not (value is None and null):
        wanted = "a text that is not empty" + ", or null" * null
        raise MixalignError(f"`{key}` is {value!r}, but must be {wanted}.{why and ' ' + why}")


def check_date(key: str, value: Any, *, null: bool = False) -> None:
    """Refuses what is no date such as `2026-01-31`.

    Args:
        null: whether None is a value as well.

    Raises:
        MixalignError: when it is something else.
    """
    try:
        known = (value is None and null) or date.fromisoformat(value).isoformat() == value
    except (TypeError, ValueError):
        known = False
    if not known:
        wanted = "a date such as 2026-01-31" + ", or null" * null
        raise MixalignError(f"`{key}` is {value!r}, but must be {wanted}.")


def check_duration(key: str, value: Any) -> float | None:
    """Refuses what is no length of time: seconds, `DD:HH:MM:SS`, or a mapping such as {hours: 1, minutes: 30}.

    Returns:
        Seconds; None for None.

    Raises:
        MixalignError: when it is something else, or not above 0.
    """
    if value is None:
        return None
    seconds = 0.0
    if isinstance(value, str) and (parts := DAYS.fullmatch(value)):
        days, hours, minutes, rest = map(int, parts.groups())
        value = {"days": days, "hours": hours, "minutes": minutes, "seconds": rest}
    if isinstance(value, Mapping):
        try:
            seconds = timedelta(**value).total_seconds()
        except (TypeError, OverflowError):
            seconds = 0.0
    elif isinstance(value, int | float) and not isinstance(value, bool):
        seconds = float(value)
    if not 0 < seconds <= LONGEST:
        wanted = 'seconds above 0, "DD:HH:MM:SS" in quotes, a mapping such as {hours: 1, minutes: 30}, or null'
        raise MixalignError(f"`{key}` is {value!r}, but must be {wanted}.")
    return seconds


def check_pattern(key: str, value: Any, *, null: bool = True) -> None:
    """Refuses what is no regular expression.

    Args:
        null: whether None is a value as well.

    Raises:
        MixalignError: when it is something else, with what is wrong in the expression.
    """
    check_text(key, value, null=null)
    try:
        re.compile(value or "")
    except re.error as error:
        raise MixalignError(f"`{key}={value}` is no regular expression: {error}.") from error


def check_mapping(key: str, value: Any, *, null: bool = False, why: str = "") -> None:
    """Refuses what is no mapping.

    Args:
        null: whether None is a value as well.
        why: sentences for the end of the message: a reason, or what to do.

    Raises:
        MixalignError: when it is something else.
    """
    if not isinstance(value, Mapping) and not (value is None and null):
        wanted = "a mapping" + ", or null" * null
        raise MixalignError(f"`{key}` is {value!r}, but must be {wanted}.{why and ' ' + why}")


def check_list(key: str, value: Any, *, null: bool = False) -> None:
    """Refuses what is no list, and a single word with the list that was meant.

    Args:
        null: whether None is a value as well.

    Raises:
        MixalignError: when it is something else.
    """
    if not isinstance(value, list | tuple) and not (value is None and null):
        wanted = f"a list: [{value}]" if isinstance(value, str) else "a list" + ", or null" * null
        raise MixalignError(f"`{key}` is {value!r}, but must be {wanted}.")


def or_word(check: Callable[[str, Any], Any], word: str) -> Callable[[str, Any], None]:
    """A check that takes one word besides, such as `auto`."""

    def checked(key: str, value: Any) -> None:
        if value != word:
            check(key, value)

    return checked
