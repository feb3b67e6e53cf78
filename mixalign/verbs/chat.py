"""Talks to a run's model, before and after training: RUN [--specialists] [--temperature T]."""

import argparse
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from mixalign.config.compose import register_resolvers
from mixalign.config.console import quiet_libraries
from mixalign.errors import MixalignError
from mixalign.output import say
from mixalign.runs.portable import where_it_began
from mixalign.sharing.find import find_model
from mixalign.sharing.prompts import Asked
from mixalign.sharing.voices import Answering, on_device, voices_of
from mixalign.terminal import wrap
from mixalign.verbs.generate import add_options, answering, stacked

__all__ = ["main", "run"]

TEXT = """Talks to the model that a run started from and to its result at once: each
line is asked of both, and each goes on with its own answers.
/reset begins anew, /quit (or the end of the input) ends."""
TURNS = "Each line is a user's turn. /reset begins a new conversation, /quit ends."
TEXTS = "Each line is a text to go on from, by itself: the run's rows were no conversations. /quit ends."


def main() -> None:
    """`mixalign chat` with what stands behind it on the command line."""
    quiet_libraries()
    style = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("mixalign chat", description=TEXT, formatter_class=style)
    add_options(parser, 256)
    given = vars(parser.parse_args())
    run(given.pop("run"), **given)


def run(
    path: Path,
    *,
    specialists: bool = False,
    max_new_tokens: int = 256,
    temperature: float = 0.0,
    seed: int = 0,
) -> None:
    """Asks every model what stands in each line of standard input, until it ends.

    Raises:
        MixalignError: for a run that is not finished, or models that are gone.
    """
    register_resolvers()
    found = find_model(path)
    with where_it_began(found.run or found.folder):
        voices = voices_of(found, specialists)
        asker = answering(found, max_new_tokens, temperature, seed)
        models = {voice.name: on_device(voice.build()) for voice in voices}
    say(wrap(f"{', '.join(models)}: loaded. {TURNS if asker.renderer.is_chat else TEXTS}"))
    history: dict[str, list[Any]] = {name: [] for name in models}
    while (line := _line()) is not None and line != "/quit":
        if line == "/reset":
            history = {name: [] for name in models}
            say("A new conversation.")
        elif line.startswith("/"):
            say(f"There is no {line.split()[0]}. Known: /reset, /quit.")
        elif line:
            _answer(line, models, asker, history)


def _answer(line: str, models: dict[str, Any], asker: Answering, history: dict[str, list[Any]]) -> None:
    answers = {}
    for name, model in models.items():
        turns = [*history[name], {"role": "user", "content": line}]
        asked: Asked = turns if asker.renderer.is_chat else line
        try:
            (answers[name],) = asker.texts(model, [asker.renderer.ids(asked)])
        except MixalignError as error:  # the conversation goes on
            say(wrap(f"{name}: {error} /reset begins a new conversation."))
            return
        history[name] = [*turns, {"role": "assistant", "content": answers[name]}]
    say(stacked(answers))


def _line() -> str | None:
    """The next line that the user gives; None at the end."""
    if not sys.stdin.isatty():
        text = sys.stdin.readline()
        return text.strip() if text else None
    with suppress(ImportError):
        import readline  # noqa: F401  # lets lines be edited, and gives those before
    try:
        return input("> ").strip()
    except EOFError:
        return None
