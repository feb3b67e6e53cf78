"""Checks of a mixer's settings, which name the config key."""

from collections.abc import Sequence
from math import inf

from mixalign.errors import MixalignError, did_you_mean

__all__ = ["check_choice", "check_flag", "check_range"]


def check_range(
    key: str, value: float, low: float, high: float = inf, *, finite: bool = True, whole: bool = False
) -> None:
    """Refuses a setting outside [low, high], infinity unless `finite` is False, and fractions where `whole` is True.

    Raises:
        MixalignError: when the value is outside, or is not a number.
    """
    is_number = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
    if not is_number or not low <= value <= high or (finite and value == inf):
        wanted = f"at least {low:g}" if high == inf else f"between {low:g} and {high:g}"
        raise MixalignError(f"`mixer.{key}` is {value!r}, but must be a {'whole ' * whole}number {wanted}.")


def check_flag(key: str, value: bool) -> None:
    """Refuses a setting that is neither True nor False.

    Raises:
        MixalignError: when it is something else.
    """
    if not isinstance(value, bool):
        raise MixalignError(f"`mixer.{key}` is {value!r}, but must be true or false.")


def check_choice(key: str, value: str, choices: Sequence[str]) -> None:
    """Refuses a word that is not one of the choices.

    Raises:
        MixalignError: when it is not.
    """
    if value not in choices:
        raise MixalignError(f"`mixer.{key}` is {value!r}. {did_you_mean(str(value), choices)}")
