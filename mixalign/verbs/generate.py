"""Answers prompts before and after training: RUN --prompts FILE [--out F.jsonl] [--task NAME]."""

import argparse
import json
from pathlib import Path
from typing import Any

from mixalign.checks import check_number
from mixalign.config.compose import register_resolvers
from mixalign.config.console import quiet_libraries
from mixalign.files import write_text
from mixalign.runs.portable import where_it_began
from mixalign.sharing.find import TrainedModel, find_model
from mixalign.sharing.prompts import Asked, read_prompts
from mixalign.sharing.voices import Answering, renderer_of, voices_of
from mixalign.stopping import stage
from mixalign.terminal import print_line, say_result, wrap

__all__ = ["add_options", "answering", "main", "run", "stacked"]

TEXT = """Has the model that a run started from and its result answer prompts, one
under the other. Prompts are rendered as those of the run's rows were."""


def add_options(parser: argparse.ArgumentParser, tokens: int) -> None:
    """What `generate` and `chat` share."""
    add = parser.add_argument
    add("run", type=Path, help="a run, or the folder of a model")
    add("--specialists", action="store_true", help="the answers of its specialists as well")
    add("--task", metavar="NAME", help="render prompts as this task's rows were; default: as turns if any task's were")
    add("--max-new-tokens", type=int, default=tokens, metavar="N", help=f"of an answer; default: {tokens}")
    add("--temperature", type=float, default=0.0, metavar="T", help="of the draws; default: 0, the first choice")
    add("--seed", type=int, default=0, metavar="N", help="of the draws; default: 0")


def main() -> None:
    """`mixalign generate` with what stands behind it on the command line."""
    quiet_libraries()
    style = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("mixalign generate", description=TEXT, formatter_class=style)
    add_options(parser, 256)
    add = parser.add_argument
    add(
        "--prompts", type=Path, required=True, metavar="FILE", help="a prompt a line, or .jsonl with prompt or messages"
    )
    add("--out", type=Path, metavar="F.jsonl", help="the file that gets prompts and answers; default: they are shown")
    given = vars(parser.parse_args())
    run(given.pop("run"), given.pop("prompts"), given.pop("out"), **given)


def answering(
    found: TrainedModel, max_new_tokens: int, temperature: float = 0.0, seed: int = 0, task: str | None = None
) -> Answering:
    """Who asks the models of a run, in its precision.

    Raises:
        MixalignError: for numbers that cannot be, and a task that the run does not have.
    """
    check_number("--max-new-tokens", max_new_tokens, 1, whole=True)
    check_number("--temperature", temperature, 0)
    precision = str((found.config.get("trainer") or {}).get("precision") or "32-true")
    return Answering(renderer_of(found, task), max_new_tokens, temperature, seed, precision)


def run(
    path: Path,
    prompts: Path,
    out: Path | None = None,
    *,
    specialists: bool = False,
    task: str | None = None,
    max_new_tokens: int = 256,
    temperature: float = 0.0,
    seed: int = 0,
) -> None:
    """Answers every prompt by each model, and shows or writes them.

    Args:
        out: gets one JSON object a prompt: `prompt`, `before`, `after`, and `specialist <task>`.
        task: whose rows prompts are rendered as; None: as conversations where those of some task were.

    Raises:
        MixalignError: for a run that is not finished, prompts that cannot be read, or models that are gone.
    """
    register_resolvers()
    asked, out = read_prompts(prompts), out and out.absolute()
    found = find_model(path)
    with where_it_began(found.run or found.folder):
        voices = voices_of(found, specialists)
        asker = answering(found, max_new_tokens, temperature, seed, task)
        if any(isinstance(one, str) for one in asked) and (note := asker.renderer.note()):
            print_line(wrap(f"note: {note}"))
        ids = [asker.renderer.ids(one) for one in asked]
        answers: dict[str, list[str]] = {}
        for voice in voices:
            with stage(f"the answers of `{voice.name}`"):
                answers[voice.name] = asker.texts_of(voice, ids)
    rows: list[dict[str, Any]] = [
        {"prompt": one} | {name: texts[number] for name, texts in answers.items()} for number, one in enumerate(asked)
    ]
    if out:
        write_text(out, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        say_result(f"{len(rows)} prompts, answered by {', '.join(answers)}: {out}")
        return
    say_result("\n\n".join(f"{_shown(row.pop('prompt'))}\n{stacked(row)}" for row in rows))


def _shown(asked: Asked) -> str:
    text = asked if isinstance(asked, str) else "\n".join(f"{m['role']}: {m.get('content')}" for m in asked)
    return f"{'-' * 40}\n{wrap(_plain(text))}"


def stacked(answers: dict[str, str]) -> str:
    """Answers one under the other, each under the name of who gave it."""
    return "\n".join(f"[{name}]\n{wrap(_plain(text)) or '(nothing)'}" for name, text in answers.items())


def _plain(text: str) -> str:
    """Without characters that a terminal obeys, which an untrained model may write."""
    return "".join(letter if letter.isprintable() or letter in "\n\t" else "?" for letter in text)
