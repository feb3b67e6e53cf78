"""What stands on the command line is looked at before torch is loaded: help, and words that there are not."""

import re
import shlex
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, RangeSweep

from mixalign.config.compose import compose_config
from mixalign.config.elsewhere import CONF
from mixalign.config.help import help_page
from mixalign.config.yaml_comments import describe
from mixalign.errors import MixalignError
from mixalign.terminal import terminal_width

__all__ = ["SWEEP", "asks_for_help", "check_words", "help_text"]

HELP = {"-h", "--help"}
SWEEP = {"-m", "--multirun"}
OWN = {"plan": re.compile(r"--json|--time|--rows|(--)?rows=.*")}  # verb -> arguments of it that are no keys


def asks_for_help(arguments: Sequence[str]) -> bool:
    return bool(HELP & set(arguments))


def help_text(verb: str, file: Path, arguments: Sequence[str]) -> str:
    """The page that `--help` asks for, with what stands beside it as its topics.

    Raises:
        MixalignError: for a topic that there is not.
    """
    topics = [text.lstrip("+~") for text in arguments if not text.startswith("-")]
    return help_page(verb, file, topics, terminal_width())


def check_words(verb: str, arguments: Sequence[str]) -> None:
    """Composes the configuration once, of a sweep with the first of each choice, so that a typo is told at once.

    With options of Hydra, such as another configuration, it is left to Hydra.

    Raises:
        MixalignError: for a key, group or choice that there is not.
    """
    _check_lone(arguments)
    own = OWN.get(verb)
    arguments = [text for text in arguments if own is None or not own.fullmatch(text)]
    _check_spelling(arguments)
    options = {text for text in arguments if text.startswith("-")}
    if options - SWEEP:
        return
    overrides = [text for text in arguments if "=" in text or text.startswith("~")]
    if options:
        overrides = [first for text in overrides if (first := _first_choice(text))]
    compose_config([text for text in overrides if not text.lstrip("+~").startswith("hydra")])


def _check_spelling(arguments: Sequence[str]) -> None:
    """Refuses a key that is written as an option, and a blank beside `=`, of which Hydra says other things."""
    known = {key.path for key in describe(CONF / "train.yaml").keys}
    for text in arguments:
        name, equals, value = text.lstrip("-").partition("=")
        key = name.replace("-", "_")
        if text.startswith("--") and (key in known or (CONF / key).is_dir()):
            raise MixalignError(f"`{text}` is a key, not an option. Write it without dashes: {key}={value or '...'}")
        if equals and not text.startswith("-") and (not name or name != name.strip()):
            raise MixalignError(f"`{text}` has no key before its `=`. Write key=value without blanks around the `=`.")


def _check_lone(arguments: Sequence[str]) -> None:
    """Refuses a word behind a key's value, as of a path with a blank; behind an option it may be the option's."""
    for before, text in pairwise(arguments):
        if "=" in before and not before.startswith("-") and "=" not in text and not text.startswith(("-", "~")):
            whole = shlex.quote(f"{before} {text}")
            raise MixalignError(
                f"`{text}` is no key=value. If it belongs to what stands before it, put quotes around both: {whole}"
            )


def _first_choice(text: str) -> str | None:
    """The override with its first value; None where only Hydra, or a sweeper of its own, knows that."""
    override = OverridesParser.create().parse_override(text)
    if not override.is_sweep_override():
        return text
    if not isinstance(override.value(), ChoiceSweep | RangeSweep):
        return None
    first = next(iter(override.sweep_string_iterator()))
    return f"{text.partition('=')[0]}={first}"
