"""What a fit tells: its table and notes in the terminal, the weights in a file, and the command that trains with them.

Suffix: `K` tasks.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor

from mixalign.files import write_text
from mixalign.terminal import say_result

__all__ = ["FittedMixture", "report", "save_mixture", "weights_override"]

WORDS = ("true", "false", "null", "inf", "nan", "yes", "no", "on", "off")  # that Hydra may read as other than text


@dataclass(frozen=True)
class FittedMixture:
    """Weights that were fitted, and what is known of them.

    Attributes:
        tasks: names of the K tasks.
        weight_K: their weights.
        table: what the fit rests on, for the terminal.
        notes: what speaks against the fit, and how it went; each is broken into lines as it is to be printed.
        facts: what the file holds beside the weights, as plain data.
    """

    tasks: Sequence[str]
    weight_K: Tensor
    table: str
    notes: Sequence[str]
    facts: Mapping[str, Any]


def report(fitted: FittedMixture, path: Path) -> None:
    """Prints a fitted mixture and the command that trains with it, and writes it down."""
    say_result(fitted.table)
    for note in fitted.notes:
        say_result(note)
    save_mixture(fitted.tasks, fitted.weight_K, fitted.facts, path)


def save_mixture(tasks: Sequence[str], weight_K: Tensor, facts: Mapping[str, Any], path: Path) -> None:
    """Writes the weights and what else is known of them as YAML, and prints the command that trains with them."""
    weights = {task: round(float(weight), 4) for task, weight in zip(tasks, weight_K, strict=True)}
    text = yaml.safe_dump({"weights": weights, **facts}, sort_keys=False, allow_unicode=True)
    write_text(path, text)
    say_result(f"mixture: {path}\nmixalign train mixer=fixed {weights_override(tasks, weight_K)}")


def weights_override(tasks: Sequence[str], weight_K: Tensor) -> str:
    """Weights as the command line takes them."""
    weights = [f"{weight:.4f}".rstrip("0").rstrip(".") for weight in weight_K.tolist()]
    if all(re.fullmatch(r"[A-Za-z_][\w.-]*", task, re.ASCII) and task.lower() not in WORDS for task in tasks):
        given = ", ".join(f"{task}: {weight}" for task, weight in zip(tasks, weights, strict=True))
        return f"'mixer.weights={{{given}}}'"
    return f"'mixer.weights=[{', '.join(weights)}]'"  # names that would have to be quoted
