"""The page of every key, from the comments of `conf/` and what the settings say that it touches, without torch."""

import ast
from collections.abc import Iterable, Mapping
from itertools import groupby
from pathlib import Path

from mixalign.config.task_keys import task_keys
from mixalign.config.yaml_comments import Described, Key, describe

__all__ = ["configuration_page"]

ROOT = Path(__file__).resolve().parents[2]
CONF = ROOT / "conf"
WHOLE_RUNS = ("arena", "experiment", "paper")  # presets of many groups at once: told in a line each
OF_HYDRA = ("hydra",)
SHORT = 60  # characters of a default that are shown
HEAD = """# Configuration

Every key may be set on the command line (`mixalign train steps=500 data.max_length=512`), in a file of your own, or
from Python (`train(steps=500, data={"max_length": 512})`). A group is chosen by name: `mixer=ama_s`; its keys then
follow its name: `mixer.eta=0.2`. `mixalign train --help` shows the same in a terminal. This page is made from the files
of [conf/](../conf) when the site is built.

*What it touches*: **weights** decide the numbers that are trained or judged, so a run goes on only with the same ones;
**speed** decides how fast and where, apart from rounding; **place** decides names, folders, what is shown, and what is
made beside the run.
"""


def configuration_page() -> str:
    """The page as Markdown: the keys of the run, those of its sections, then every group with its choices."""
    main, touches = describe(CONF / "train.yaml"), touched(ROOT / "mixalign" / "config" / "settings.py")
    parts = [HEAD]
    top = [key for key in main.keys if key.value and "." not in key.path]
    for heading, keys in groupby(top, key=lambda key: key.heading):
        parts.append(f"## {heading}\n\n{_table(list(keys), touches)}")
    for section in [key for key in main.keys if not key.value and "." not in key.path]:
        keys = [key for key in main.keys if key.path.startswith(f"{section.path}.") and key.value]
        title = f"`{section.path}.*`"
        parts.append(f"## {title}\n\n{_sentence(section.comment)}\n\n{_table(keys, touches)}")
    of_task = [Key(f"data.tasks.<name>.{key.path}", key.value, key.comment) for key in task_keys()]
    table = _table(of_task, touches)
    parts.append(f"## `data.tasks.<name>.*`\n\nOf each task: [formats of rows](formats.md).\n\n{table}")
    taken = dict(entry.split(": ", 1) for entry in main.defaults if ": " in entry and "/" not in entry)
    groups = [path for path in CONF.iterdir() if path.is_dir() and path.name not in OF_HYDRA]
    for folder in sorted(groups, key=lambda path: (path.name in WHOLE_RUNS, path.name)):
        parts.append(_group(folder, taken.get(folder.name), touches))
    return "\n\n".join(parts) + "\n"


def _group(folder: Path, taken: str | None, touches: Mapping[str, str]) -> str:
    files = [path for path in sorted(folder.glob("*.yaml")) if not path.stem.startswith("_")]
    said = f"By default `{folder.name}={taken}`." if taken and taken != "null" else "None is chosen by default."
    lines = [f"## `{folder.name}=`", said]
    place = "" if folder.name in (*WHOLE_RUNS, "launcher") else f"{folder.name}."
    for path in files:
        found = with_base(path)
        lines.append(f"### `{folder.name}={path.stem}`\n\n{_sentence(found.about)}")
        keys = [key for key in found.keys if key.value or key.comment]
        own = [key for key in keys if key.path != "name" and not key.path.startswith("tasks.")]
        if own and folder.name not in WHOLE_RUNS:
            lines.append(_table([Key(place + k.path, k.value, k.comment) for k in own], touches))
    return "\n\n".join(lines)


def with_base(path: Path) -> Described:
    """A file with the keys of those in its group that its defaults name, where it does not set them itself."""
    found = describe(path)
    known = {key.path for key in found.keys}
    for name in found.defaults:
        if (base := path.parent / f"{name}.yaml").is_file():
            found.keys += [key for key in with_base(base).keys if key.path not in known]
    return found


def touched(settings: Path) -> dict[str, str]:
    """Key, or the first part of it, to what it touches, as the dataclasses of the settings say."""
    classes = {node.name: node for node in ast.parse(settings.read_text()).body if isinstance(node, ast.ClassDef)}
    found: dict[str, str] = {}
    for name, kind, touches in _fields(classes["RunSettings"]):
        found[name] = touches
        for inner, _, of_inner in _fields(classes[kind]) if kind in classes else ():
            found[f"{name}.{inner}"] = of_inner if touches == "weights" else touches
    return found


def _fields(node: ast.ClassDef) -> Iterable[tuple[str, str, str]]:
    """Name, class and what it touches, of every field made by `setting` or `part`."""
    for field in node.body:
        if isinstance(field, ast.AnnAssign) and isinstance(field.value, ast.Call):
            words = [word.value for word in field.value.args if isinstance(word, ast.Constant)]
            touches = next((word for word in words if word in ("speed", "place")), "weights")
            yield ast.unparse(field.target), ast.unparse(field.annotation), touches


def _table(keys: list[Key], touches: Mapping[str, str]) -> str:
    lines = ["| key | default | what it is | touches |", "| --- | --- | --- | --- |"]
    for key in keys:
        parts = key.path.split(".")
        near = [touches.get(".".join(parts[:n])) for n in range(len(parts), 0, -1)]
        value = key.value if len(key.value) <= SHORT else f"{key.value[: SHORT - 4]} ..."
        shown = f"`{value}`" if value else ""
        kind = next((one for one in near if one), "")
        lines.append(f"| `{key.path}` | {_cell(shown)} | {_cell(key.comment)} | {kind} |")
    return "\n".join(lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;") if "`" not in text else text.replace("|", "\\|")


def _sentence(text: str) -> str:
    text = text.replace("<", "&lt;").strip()
    text = text[:1].upper() + text[1:]
    return text if not text or text.endswith((".", ":", "`")) else f"{text}."
