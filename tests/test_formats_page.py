"""docs/formats.md: what it says of every example is what is read, learned and refused, and no format is missing."""

import json
import re
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from mixalign.chat.templates import NAMES, template_text
from mixalign.data.read.files import COMPRESSED, TABLES, TEXTS
from mixalign.data.read.formats import EXTRAS, FORMATS, example_kind
from mixalign.data.read.sources import load_rows
from mixalign.data.read.spec import TaskSpec
from mixalign.data.read.table import SPLITS
from mixalign.data.tokens.plans import TRAIN_ON
from mixalign.data.tokens.tokenise import tokenise
from mixalign.errors import MixalignError
from mixalign.models.tiny import byte_tokenizer

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "formats.md").read_text(encoding="utf-8")
MARKUP = ["<|im_start|>", "<|im_end|>", "<tool_call>", "</tool_call>"]


@dataclass
class Shown:
    """An example of the page, by its line: the row, the settings of its task, and what becomes of it."""

    line: int
    row: dict[str, Any]
    task: dict[str, Any] = field(default_factory=dict)
    learned: list[str] = field(default_factory=list)
    error: str = ""


def examples() -> list[Shown]:
    shown: list[Shown] = []
    for block in re.finditer(r"^```(\w+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL):
        kind, text = block[1], block[2].removesuffix("\n")
        if kind == "json":
            shown.append(Shown(PAGE[: block.start()].count("\n") + 1, json.loads(text)))
        elif kind == "yaml":
            shown[-1].task = yaml.safe_load(text)
        elif kind == "text":
            shown[-1].learned.append(text)
        else:
            shown[-1].error = text
    return shown


EXAMPLES = examples()


def tokenizer():
    """One token a byte, and the markup of ChatML."""
    made = byte_tokenizer()
    made.add_tokens(MARKUP, special_tokens=True)
    made.chat_template = template_text("chatml")
    return made


def as_shown(row, completion: int, decode, between: str = "") -> str:
    """Prompt and completion of a tokenised row, with brackets around what is learned."""
    parts, marks = [*row["prompt"], *row["completions"][completion]], [False] * len(row["prompt"])
    marks += row["supervised"][completion].tolist()
    edges = [0, *(n for n in range(1, len(marks)) if marks[n] != marks[n - 1]), len(marks)]
    spans = [(decode(parts[a:b]), marks[a]) for a, b in pairwise(edges)]
    return between.join(f"[[{text}]]" if learned else text for text, learned in spans)


def read(shown: Shown, folder: Path) -> list[str]:
    """What a task with the row as its file learns, one text an answer."""
    (folder / "rows.jsonl").write_text(json.dumps(shown.row), encoding="utf-8")
    made, task = tokenizer(), TaskSpec.from_mapping("shown", {"path": str(folder / "rows.jsonl"), **shown.task})
    (example,) = load_rows("shown", task, chat=True)
    settings = {
        "form": example_kind(example),
        "max_length": 10_000,
        "train_on": task.train_on,
    }
    dataset, _ = tokenise([example], made, task="shown", **settings)
    sides = range(dataset.num_completions)
    if "input_ids" in example or "prompt_ids" in example:
        return [as_shown(dataset[0], n, lambda ids: " ".join(map(str, ids)), between=" ") for n in sides]
    return [as_shown(dataset[0], n, made.decode) for n in sides]


@pytest.mark.parametrize("shown", [s for s in EXAMPLES if not s.error], ids=lambda s: f"line {s.line}")
def test_what_is_learned_is_what_the_page_shows(shown, tmp_path):
    assert read(shown, tmp_path) == shown.learned


@pytest.mark.parametrize("shown", [s for s in EXAMPLES if s.error], ids=lambda s: f"line {s.line}")
def test_what_is_refused_is_refused_in_these_words(shown, tmp_path):
    with pytest.raises(MixalignError) as caught:
        read(shown, tmp_path)
    assert shown.error in str(caught.value)


@pytest.mark.parametrize("required", [required for required, _, _ in FORMATS], ids=" + ".join)
def test_every_format_has_an_example(required):
    assert any(set(required) <= set(shown.row) for shown in EXAMPLES if not shown.error)


def test_every_column_setting_file_and_template_is_named():
    optional = {name for _, names, _ in FORMATS for name in names}
    files = {*TEXTS, *COMPRESSED, *TABLES, *(name for names in SPLITS.values() for name in names)}
    for name in {*optional, *EXTRAS, *files, *NAMES, *TRAIN_ON}:
        assert f"`{name}`" in PAGE or f'"{name}":' in PAGE, f"docs/formats.md does not name `{name}`"
