"""Talks to a model, before and after training: RUN [--system TEXT] [--specialists] [--task NAME]."""

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
TEXTS = "Each line is a text to go on from, by itself and without a chat template. /quit ends."


def main() -> None:
    """`mixalign chat` with what stands behind it on the command line."""
    quiet_libraries()
    style = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("mixalign chat", description=TEXT, formatter_class=style)
    add_options(parser, 256)
    parser.add_argument("--system", metavar="TEXT", help="a system prompt, the first turn of each conversation")
    given = vars(parser.parse_args())
    run(given.pop("run"), **given)


def run(
    path: Path,
    *,
    specialists: bool = False,
    task: str | None = None,
    system: str | None = None,
    max_new_tokens: int = 256,
    temperature: float = 0.0,
    seed: int = 0,
) -> None:
    """Asks every model what stands in each line of standard input, until it ends.

    Args:
        task: whose rows lines are rendered as; None: as turns where those of some task were conversations.
        system: the first turn of each conversation.

    Raises:
        MixalignError: for a run that is not finished, models that are gone, or a system prompt of what is no
            conversation.
    """
    register_resolvers()
    found = find_model(path)
    with where_it_began(found.run or found.folder):
        voices = voices_of(found, specialists)
        asker = answering(found, max_new_tokens, temperature, seed, task)
        if system is not None and not asker.renderer.is_chat:
            raise MixalignError("--system: lines are texts to go on from, without turns. Leave it out.")
        models = {voice.name: on_device(voice.build()) for voice in voices}
    how = TURNS if asker.renderer.is_chat else TEXTS
    say(wrap(f"{', '.join(models)}: loaded. {how} {asker.renderer.note()}".rstrip()))
    opening = [] if system is None else [{"role": "system", "content": system}]
    history: dict[str, list[Any]] = dict.fromkeys(models, opening)
    while (line := _line()) is not None and line != "/quit":
        if line == "/reset":
            history = dict.fromkeys(models, opening)
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
