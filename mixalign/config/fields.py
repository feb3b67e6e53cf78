"""What a field of the settings says of its key: the check of its value, and what the key touches."""

from collections.abc import Callable, Mapping
from dataclasses import field
from functools import partial
from typing import Any, Literal

from mixalign.checks import check_choice, check_list, check_mapping, check_number, check_text
from mixalign.errors import MixalignError
from mixalign.models.precision import PRECISIONS

__all__ = [
    "COUNT",
    "COUNT_FROM_0",
    "COUNT_OR_NULL",
    "EPOCHS",
    "LIST_OR_NULL",
    "MAPPING_OR_NULL",
    "RATE",
    "SEED",
    "SHARE_OR_NULL",
    "TEXT_OR_NULL",
    "Touches",
    "anything",
    "check_precision",
    "check_target",
    "part",
    "setting",
    "word",
]

Touches = Literal["weights", "speed", "place"]
"""`weights`: the numbers that are trained or judged; `speed`: how fast and on which machines, apart from rounding;
`place`: names, folders, what is shown, and what is made beside the run."""


def setting(check: Callable[[str, Any], Any], touches: Touches = "weights", **default: Any) -> Any:
    """A field that one key fills. A default is for the config.yaml of an older run, which lacks the key."""
    return field(metadata={"check": check, "touches": touches}, **default)


def part(touches: Touches = "weights", **default: Any) -> Any:
    """A field that a group of keys fills."""
    return field(metadata={"touches": touches}, **default)


def check_target(key: str, value: Any) -> None:
    many = isinstance(value, list | tuple) and all(isinstance(name, str) for name in value)
    if value is not None and not isinstance(value, str | Mapping) and not many:
        raise MixalignError(f"`{key}` is {value!r}, but must be a list of tasks, or a mapping like `data.tasks`.")


def check_precision(key: str, value: Any) -> None:
    check_choice(key, str(value) if isinstance(value, int) else value, ("auto", *PRECISIONS))


def anything(key: str, value: Any) -> None:
    """For values that are checked by who reads them."""


COUNT = partial(check_number, low=1, whole=True)
COUNT_OR_NULL = partial(check_number, low=1, whole=True, null=True)
COUNT_FROM_0 = partial(check_number, low=0, whole=True)
SEED = partial(check_number, low=0, high=2**32 - 1, whole=True)
EPOCHS = partial(check_number, low=0, open_low=True, null=True)
SHARE_OR_NULL = partial(check_number, low=0, high=1, open_low=True, null=True)
RATE = partial(check_number, low=0, high=1, why="AdamW moves every weight by about that much at every step.")
TEXT_OR_NULL = partial(check_text, null=True)
LIST_OR_NULL = partial(check_list, null=True)
MAPPING_OR_NULL = partial(check_mapping, null=True)


def word(*known: Any, null: bool = False) -> Callable[[str, Any], None]:
    return partial(check_choice, known=known, null=null)
