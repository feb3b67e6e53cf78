"""What a search may choose: values on the command line that are several, as in `optimizer.lr=interval(1e-5,1e-3)`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, RangeSweep

from mixalign.config.compose import as_today, compose_config
from mixalign.config.elsewhere import CONF
from mixalign.errors import MixalignError

__all__ = ["Choice", "Interval", "Space", "space_of"]


@dataclass(frozen=True)
class Choice:
    """One of some values, each as it is written in an override."""

    key: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class Interval:
    """A number between two ends, both included.

    Attributes:
        log: whether its logarithm is drawn evenly.
        whole: whether it is a whole number.
    """

    key: str
    low: float
    high: float
    log: bool = False
    whole: bool = False


Dimension = Choice | Interval


@dataclass(frozen=True)
class Space:
    """Overrides that all trials have, and what differs between them: groups first, then keys.

    Keys that the chosen entry of a group does not have, such as `mixer.eta` of `mixer=uniform`, are left out.
    """

    fixed: tuple[str, ...]
    dimensions: tuple[Dimension, ...]

    def overrides(self, choose: Callable[[Dimension], Any], known: dict[tuple[str, ...], bool]) -> list[str]:
        """Those of one trial.

        Args:
            choose: gives the value of a dimension; called only for those that there are under the choices before.
            known: a memory of what there is, for the next trial.
        """
        groups = [one for one in self.dimensions if _is_group(one.key)]
        chosen = [f"{one.key}={choose(one)}" for one in groups]
        for one in self.dimensions:
            if one in groups:
                continue
            asked = (*self.fixed, *chosen, f"{one.key}={_some(one)}")
            mark = (*chosen[: len(groups)], one.key)
            if mark not in known:
                known[mark] = _exists(asked)
            if known[mark]:
                chosen.append(f"{one.key}={choose(one)}")
        return [*self.fixed, *chosen]


def space_of(arguments: Sequence[str]) -> Space:
    """The space that some overrides span.

    Raises:
        MixalignError: when nothing differs, for a kind of sweep that cannot be searched, or a word that there is not.
    """
    texts = as_today(arguments)
    parsed = OverridesParser.create().parse_overrides(list(texts))
    fixed = tuple(text for text, one in zip(texts, parsed, strict=True) if not one.is_sweep_override())
    dimensions = [_dimension(text, one) for text, one in zip(texts, parsed, strict=True) if one.is_sweep_override()]
    if not dimensions:
        raise MixalignError(
            "Nothing differs between trials. Give some key several values: mixer=ama_s,ama_e, "
            "`mixer.eta=tag(log,interval(0.01,1))` or `mixer.m=choice(0.1,0.15,0.3)`."
        )
    dimensions.sort(key=lambda one: not _is_group(one.key))  # groups first, as keys may be those of a choice
    _check(fixed, dimensions)
    return Space(fixed, tuple(dimensions))


def _dimension(text: str, override: Override) -> Dimension:
    value, key = override.value(), text.partition("=")[0]
    if isinstance(value, ChoiceSweep | RangeSweep):
        return Choice(key, tuple(override.sweep_string_iterator()))
    if isinstance(value, IntervalSweep):
        low, high = value.start, value.end
        assert low is not None
        assert high is not None
        log = "log" in value.tags
        if not low < high or (log and low <= 0):
            raise MixalignError(
                f"`{text}`: the first end must be below the second one{', and above 0' if log else ''}."
            )
        whole = isinstance(low, int) and isinstance(high, int)
        return Interval(key, low, high, log, whole)
    raise MixalignError(f"`{text}` cannot be searched. Give values, a range or an interval.")


def _is_group(key: str) -> bool:
    return (CONF / key.lstrip("+")).is_dir()


def _some(one: Dimension) -> Any:
    return one.values[0] if isinstance(one, Choice) else one.low


def _exists(overrides: Sequence[str]) -> bool:
    try:
        compose_config(overrides)
    except MixalignError as error:
        if "is no setting" in str(error):
            return False
        raise
    return True


def _check(fixed: Sequence[str], dimensions: Sequence[Dimension]) -> None:
    """Every entry of a group there is, and every key there is under some choice."""
    groups = [one for one in dimensions if _is_group(one.key) and isinstance(one, Choice)]
    chosen = [[f"{one.key}={value}" for value in one.values] for one in groups]
    for texts in chosen:
        for text in texts:
            compose_config([*fixed, text])
    heads = [*product(*chosen)]
    for one in dimensions:
        if one in groups:
            continue
        if not any(_exists([*fixed, *head, f"{one.key}={_some(one)}"]) for head in heads):
            compose_config([*fixed, *heads[0], f"{one.key}={_some(one)}"])  # raises, and names it
