"""`--help` of the verbs that take configuration keys: read from the files of `conf/`, without loading torch."""

import ast
import textwrap
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

from mixalign.config.elsewhere import CONF
from mixalign.config.task_keys import task_keys
from mixalign.config.yaml_comments import Described, Key, describe
from mixalign.errors import MixalignError, did_you_mean

__all__ = ["help_page"]

MAIN = ("data", "model", "lora", "objective", "mixer", "optimizer", "trainer", "logger")  # groups with a line each
NARROW, MIDDLE, WIDE = 17, 22, 26  # columns of names: groups and keys of the first page, and the other pages
EVERYTHING = "all"
OWN = "tasks of your own: data=local data.root=FOLDER, a folder each"
TASKS = (
    "Keys of one task, each as in data.tasks.math.path=math.jsonl, or several in quotes: "
    "'data.tasks.math={path: math.jsonl, columns: {prompt: question}}'."
)

SWEEP = "With -m: once for every combination, as of mixer=uniform,ama_s seed=0,1."
MORE = (
    "Sections of keys: {sections}. More of any of these words: `{verb} --help mixer` lists the choices of a group, "
    "`--help mixer=ama_s` the keys of one, `--help eval` those of a section, and `--help all` everything."
)
FIRST = """{usage}

{about}
{options}
Groups, with the choice that is taken when none is named:
{groups}

{keys}

{more}"""


def help_page(verb: str, file: Path, topics: Sequence[str], width: int) -> str:
    """What `mixalign VERB --help TOPICS` prints.

    Args:
        file: of the verb; its docstring says what it does.
        topics: groups, choices of one (`mixer=ama_s`), sections, keys, or `all`; empty: an overview of one screen.

    Raises:
        MixalignError: for a topic that there is not.
    """
    whole = describe(CONF / "train.yaml")
    if not topics:
        return _overview(verb, file, whole, width)
    if EVERYTHING in topics:
        topics = [*dict.fromkeys(key.path.partition(".")[0] for key in whole.keys), *_choices()]
    return "\n\n".join(_page(topic, whole, width) for topic in dict.fromkeys(topics))


def _overview(verb: str, file: Path, whole: Described, width: int) -> str:
    first, _, further = (ast.get_docstring(ast.parse(file.read_text("utf-8"))) or "").partition("\n\n")
    about, _, usage = first.partition(": ")
    options = usage.rstrip(".") if usage.startswith("[") else "[-m]"
    top = [key for key in whole.keys if key.value and "." not in key.path]
    blocks = []
    for heading, keys in groupby(top, key=lambda key: key.heading):
        lines = [_entry(_with_default(key), _first_clause(key.comment), MIDDLE, width) for key in keys]
        blocks.append("\n".join([f"{heading}:", *lines]))
    sections = [key.path for key in whole.keys if not key.value and _is_section(key, whole)]
    return FIRST.format(
        verb=f"mixalign {verb}",
        usage=f"usage: mixalign {verb} {options} [key=value ...]",
        about=textwrap.fill(f"{about.partition('; -m')[0].rstrip('.')}. {SWEEP}", width),
        options=f"\n{textwrap.indent(further, '  ')}\n" if further else "",
        groups="\n".join(_group_lines(_taken(whole), width)),
        keys="\n\n".join(blocks),
        more=textwrap.fill(MORE.format(sections=", ".join(sections), verb=f"mixalign {verb}"), width),
    )


def _with_default(key: Key) -> str:
    """`steps=auto`; the name alone where the value is long."""
    whole = f"{key.path}={key.value}"
    return whole if len(whole) < MIDDLE else key.path


def _is_section(key: Key, whole: Described) -> bool:
    """Whether keys with values stand right below it."""
    return any(other.value and other.path.rpartition(".")[0] == key.path for other in whole.keys)


def _group_lines(taken: dict[str, str], width: int) -> Iterator[str]:
    for group in MAIN:
        others = [name for name in _choices()[group] if name != taken[group]]
        text = f"{taken[group]}" + (f"; or {', '.join(others)}" if others else "")
        yield _entry(group, textwrap.shorten(text, width - NARROW - 2, placeholder=" ..."), NARROW, width)
        if group == "data":
            yield _entry("", OWN, NARROW, width)
    yield textwrap.fill(
        "further: " + ", ".join(group for group in _choices() if group not in MAIN),
        width,
        initial_indent="  ",
        subsequent_indent=" " * 11,
    )


def _taken(whole: Described) -> dict[str, str]:
    """Group -> the choice of the defaults."""
    entries = (entry.partition(": ") for entry in whole.defaults)
    return {group: choice for group, colon, choice in entries if colon}


def _choices() -> dict[str, list[str]]:
    """Group -> its choices; files that begin with `_` are parts of others."""
    found: dict[str, list[str]] = {}
    for file in sorted(CONF.glob("*/*.yaml")):
        if not file.stem.startswith("_"):
            found.setdefault(file.parent.name, []).append(file.stem)
    return found


def _page(topic: str, whole: Described, width: int) -> str:
    group, equals, choice = topic.partition("=")
    groups = _choices()
    if equals and group in groups:
        return "\n\n".join(_of_choice(group, name.strip(), width) for name in choice.strip("[]").split(","))
    keys = [key for key in whole.keys if key.path == group or key.path.startswith(f"{group}.")]
    blocks = []
    head = group.partition(".")[0]
    taken_here = _taken(whole).get(head)
    if not keys and head in groups and taken_here in groups[head]:  # of a group's choice, as optimizer.lr
        own = [Key(f"{head}.{k.path}", k.value, k.comment) for k in _with_base(CONF / head / f"{taken_here}.yaml").keys]
        keys = [key for key in own if key.path == group or key.path.startswith(f"{group}.")]
    if (not keys or group.startswith("data.tasks")) and (of_task := _of_task(group)):
        return "\n".join([textwrap.fill(TASKS, width), _listed(of_task, width)])
    if not equals and topic in groups:
        taken = _taken(whole).get(topic)
        lines = [f"{topic}=...{f', by default {taken}' if taken not in (None, 'null') else ''}:"]
        lines += [_entry(name, describe(CONF / topic / f"{name}.yaml").about, NARROW, width) for name in groups[topic]]
        blocks.append("\n".join(lines))
    if keys:
        blocks.append(_listed(keys, width))
    if not blocks:
        known = [*dict.fromkeys([*groups, *(key.path for key in whole.keys), EVERYTHING])]
        hint = did_you_mean(topic, known)
        if hint.startswith("Known"):
            hint = "`--help` without more lists groups and keys, `--help all` everything."
        raise MixalignError(f"There is no help on `{topic}`. {hint}")
    return "\n\n".join(blocks)


def _of_task(topic: str) -> list[Key]:
    """The keys of a task that a topic asks for: `data.tasks`, `data.tasks.math`, `data.tasks.math.columns`, `columns`.

    Raises:
        MixalignError: for a key that a task does not have.
    """
    keys, word = task_keys(), topic.rpartition(".")[2]
    known = [key for key in keys if key.path == word]
    if not topic.startswith("data.tasks."):
        return keys if topic in ("data.tasks", "tasks") else known if topic not in _choices() else []
    if topic.count(".") > 2 and not known:
        raise MixalignError(f"There is no help on `{topic}`. {did_you_mean(word, [key.path for key in keys])}")
    return known or keys


def _of_choice(group: str, choice: str, width: int) -> str:
    if choice not in (known := _choices()[group]):
        raise MixalignError(f"There is no `{group}={choice}`. {did_you_mean(choice, known)}")
    found = _with_base(CONF / group / f"{choice}.yaml")
    place = "" if group in ("experiment", "arena", "paper", "launcher") else f"{group}."
    keys = [Key(f"{place}{key.path}", key.value, key.comment) for key in found.keys]
    return "\n".join(
        [textwrap.fill(f"{group}={choice}: {found.about}", width), *([_listed(keys, width)] if keys else [])]
    )


def _with_base(path: Path) -> Described:
    """A file with the keys of those that its defaults name in the same group, where it does not set them itself."""
    found = describe(path)
    own = {key.path for key in found.keys}
    for name in found.defaults:
        if (path.parent / f"{name}.yaml").is_file():
            found.keys += [key for key in _with_base(path.parent / f"{name}.yaml").keys if key.path not in own]
    return found


def _listed(keys: Sequence[Key], width: int) -> str:
    return "\n".join(
        _entry(f"{key.path}={key.value}" if key.value else f"{key.path}:", key.comment, WIDE, width) for key in keys
    )


def _entry(name: str, text: str, column: int, width: int) -> str:
    """A name, and behind it what it is, folded into a column of its own."""
    head = f"  {name}"
    lines = textwrap.wrap(text, width - column - 2, break_long_words=False, break_on_hyphens=False)
    if not lines:
        return head
    if len(head) > column + 1:
        return "\n".join([head, *(" " * (column + 2) + line for line in lines)])
    return "\n".join([f"{head:{column + 2}}{lines[0]}", *(" " * (column + 2) + line for line in lines[1:])])


def _first_clause(comment: str) -> str:
    return comment.partition(";")[0].strip()
