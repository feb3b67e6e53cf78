"""Settings that cannot be, refused before anything is read or trained."""

import os
import re
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any, get_args

from omegaconf import DictConfig, OmegaConf

from mixalign.errors import MixalignError, did_you_mean
from mixalign.mixers.base import Composition
from mixalign.models.reference import LIVE
from mixalign.pipelines.build import build
from mixalign.training.callbacks.mixing import OnNan

__all__ = ["check_place", "check_settings"]


@dataclass(frozen=True)
class Range:
    """The numbers that a setting may be, `low` to `high`.

    Attributes:
        whole: whether only whole numbers are meant.
        open: whether the ends are left out.
        null: whether null is a value as well.
        why: a clause for the message.
    """

    low: float
    high: float = inf
    whole: bool = False
    open: bool = False
    null: bool = False
    why: str = ""

    def holds(self, value: Any) -> bool:
        if value is None:
            return self.null
        if isinstance(value, bool) or not isinstance(value, int if self.whole else int | float):
            return False
        inside = self.low < value < self.high if self.open else self.low <= value <= self.high
        return inside and value < inf

    def __str__(self) -> str:
        kind = "a whole number" if self.whole else "a number"
        if self.whole and self.high == inf:
            text = f"{kind} above {self.low - 1:g}" if self.low == 1 else f"{kind} from {self.low:g} on"
        elif self.low == -inf:
            text = kind
        elif self.high == inf:
            text = f"{kind} {'above' if self.open else 'at least'} {self.low:g}"
        else:
            text = f"{kind} from {self.low:g} to {'2**32 - 1' if self.high == 2**32 - 1 else f'{self.high:g}'}"
        return text + (", or null" if self.null else "") + self.why


COUNT, COUNT_OR_NULL = Range(1, whole=True), Range(1, whole=True, null=True)
SEED = Range(0, 2**32 - 1, whole=True)
EPOCHS = Range(0, open=True, null=True)
RATE = Range(0, 1, why=": AdamW moves every weight by about that much at every step")
RANGES = {
    "steps": COUNT_OR_NULL,
    "epochs": EPOCHS,
    "batch_size": COUNT,
    "micro_batch_size": COUNT_OR_NULL,
    "eval_batch_size": COUNT,
    "val_every": COUNT_OR_NULL,
    "save_every": COUNT_OR_NULL,
    "log_every": COUNT,
    "seed": SEED,
    "optimizer.lr": RATE,
    "reference.sft_steps": Range(0, whole=True, null=True),
    "reference.sft_epochs": EPOCHS,
    "reference.sft_lr": RATE,
    "reference.sft_batch_size": COUNT,
    "reference.seed": SEED,
    "specialists.steps": COUNT_OR_NULL,
    "specialists.epochs": EPOCHS,
    "specialists.batch_size": COUNT,
    "specialists.lr": RATE,
    "specialists.seed": SEED,
    "data.max_length": Range(2, whole=True),
    "data.validation_fraction": Range(0, 1),
    "data.seed": SEED,
    "data.workers": COUNT_OR_NULL,
    "probe.rows": COUNT,
    "probe.validation_rows": COUNT,
    "merge.scale": Range(-inf),
    "merge.trials": Range(0, whole=True),
    "influence.seed": SEED,
}
WORDS: dict[str, tuple[Any, ...]] = {
    "export": ("best", "last"),
    "on_nan": get_args(OnNan),
    "composition": (*get_args(Composition), None),
    "reference.mode": ("cached", *LIVE),
    "specialists.train": ("auto", "always", "never"),
    "progress": (True, False),
    "debug": (True, False),
    "data.cache_tokens": (True, False),
}
TEXTS = ("name", "cache_dir", "data.root", "specialists.dir", "probe.weights", "resume")  # or null, but for one
BUILT = ("optimizer", "lora", "influence")  # nodes whose classes check what they get
SECRET = re.compile(r"(TOKEN|API_KEY|SECRET|PASSWORD)$")  # names of environment variables
SHORTEST_SECRET = 12  # characters; a shorter one may be a word of a configuration
NOT_GIVEN = object()  # as in the config.yaml of a run that an older version made


def check_settings(cfg: DictConfig) -> None:
    """Refuses what is wrong whatever the rows and the model are.

    Raises:
        MixalignError: naming the key, its value and what it may be.
    """
    if missing := sorted(OmegaConf.missing_keys(cfg)):
        raise MixalignError(f"`{missing[0]}` has no value, and must have one. Set it: {missing[0]}=...")
    for key, wanted in RANGES.items():
        value = _get(cfg, key)
        if value is not NOT_GIVEN and not wanted.holds(value):
            raise MixalignError(f"`{key}` is {value!r}, but must be {wanted}.")
    for key, words in WORDS.items():
        value = _get(cfg, key)
        if value is not NOT_GIVEN and (value not in words or isinstance(value, bool) is not isinstance(words[0], bool)):
            hint = "Set it to true or false." if words[0] is True else did_you_mean(str(value), filter(None, words))
            raise MixalignError(f"`{key}` is {value!r}. {hint}")
    for key in TEXTS:
        value = _get(cfg, key)
        may_be_left_out = value is NOT_GIVEN or (value is None and key != "cache_dir")
        if not may_be_left_out and not (isinstance(value, str) and value):
            raise MixalignError(f"`{key}` is {value!r}, but must be a text. Put quotes around it, or leave it out.")
    _check_secrets(OmegaConf.to_container(cfg, resolve=True))
    _check_pattern(_get(cfg, "probe.weights"))
    if isinstance(methods := _get(cfg, "merge.methods"), str):
        raise MixalignError(f"`merge.methods` is {methods!r}, but must be a list: [{methods}].")
    check_place("cache_dir", Path(cfg.cache_dir))
    if directory := _get(cfg, "specialists.dir"):
        check_place("specialists.dir", Path(str(directory)))
    for node in BUILT:
        build(cfg.get(node))


def check_place(key: str, path: Path) -> None:
    """Refuses a folder that cannot be made, or not be written to; makes nothing.

    Raises:
        MixalignError: naming what is in the way.
    """
    path = path.expanduser().absolute()
    there = next(place for place in (path, *path.parents) if os.path.lexists(place))
    if not there.is_dir():
        raise MixalignError(f"`{key}` is {path}, but {there} is no folder. Name another place.")
    if not os.access(there, os.W_OK | os.X_OK):
        raise MixalignError(f"`{key}` is {path}, but this user may not write to {there}. Name another place.")


def _check_secrets(node: Any, key: str = "") -> None:
    """Refuses a token in the configuration, which is written beside the run, and into logs."""
    if isinstance(node, dict | list):
        for name, part in node.items() if isinstance(node, dict) else enumerate(node):
            _check_secrets(part, f"{key}.{name}" if key else str(name))
    elif isinstance(node, str):
        for name, secret in os.environ.items():
            if SECRET.search(name) and len(secret) >= SHORTEST_SECRET and secret in node:
                raise MixalignError(
                    f"`{key}` holds the secret of the environment variable {name}, which would be written to disk. "
                    "Leave it out: libraries read the variable themselves."
                )


def _get(cfg: DictConfig, key: str) -> Any:
    """The value of a dotted key, as plain Python."""
    value = OmegaConf.select(cfg, key, default=NOT_GIVEN)
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


def _check_pattern(pattern: Any) -> None:
    try:
        re.compile(pattern if isinstance(pattern, str) else "")
    except re.error as error:
        raise MixalignError(f"`probe.weights={pattern}` is no regular expression: {error}.") from error
