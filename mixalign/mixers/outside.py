"""Rules of classes from outside, which satisfy the Protocol `Mixer` and know nothing of ours."""

from typing import Any, cast

from mixalign.mixers.base import Mixer, Rule

__all__ = ["as_rule"]


def as_rule(mixer: Mixer) -> Rule:
    """The mixer itself if it is a Rule; else one that passes everything on to it, with the defaults for what it lacks.

    Called where a mixer comes in: from a configuration, or in a callback's constructor.
    """
    return mixer if isinstance(mixer, Rule) else cast(Rule, _Outside(mixer))


class _Outside:
    def __init__(self, mixer: Mixer) -> None:
        self._mixer = mixer

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # of copy and pickle, which ask before there is a `_mixer`
            raise AttributeError(name)
        return getattr(self._mixer if hasattr(self._mixer, name) else _DEFAULTS, name)

    def for_run(self, tasks: list[str], steps: int) -> Rule:
        for_run = getattr(self._mixer, "for_run", None)
        return as_rule(for_run(tasks, steps)) if for_run else cast(Rule, self)


_DEFAULTS = Rule()  # type: ignore[abstract]  # only what it has beyond a Mixer is asked for
