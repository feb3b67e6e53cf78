"""A page for every rule of `conf/mixer/` that has none written by hand, from its comments and its docstring."""

import ast
import re
from pathlib import Path

import yaml
from configuration import with_base

__all__ = ["method_pages"]

ROOT = Path(__file__).resolve().parents[2]
MIXERS = ROOT / "conf" / "mixer"
EQUATIONS = ROOT / "docs" / "making" / "equations.yaml"
BY_HAND = {"ama_r": "ama", "ama_s": "ama", "ama_e": "ama", "ideal": "ideal"}
"""Rule to the page under docs/methods/ that is about it."""

PAGE = r"""# `mixer={name}`

{about}

## The rule

Of $K$ tasks, $\alpha_i$ is the share of task $i$ in the batches, or the weight of its loss where a rule moves that.

{equations}

{docstring}

## Settings

{keys}

The rule itself is [{file}](../../{file}), what it is set to
[conf/mixer/{name}.yaml](../../conf/mixer/{name}.yaml). What it costs and when to use it is in
[the table of mixers](../mixers.md); how it did, in [the evidence](../evidence.md).
"""


def method_pages() -> dict[str, str]:
    """Path below docs/ to Markdown, for every mixer but those with a page by hand."""
    return {f"methods/{name}.md": _page(name) for name in sorted(names() - {*BY_HAND})}


def names() -> set[str]:
    return {path.stem for path in MIXERS.glob("*.yaml") if not path.stem.startswith("_")}


def _page(name: str) -> str:
    path = MIXERS / f"{name}.yaml"
    (target,) = re.findall(r"^_target_: mixalign\.([\w.]+)\.(\w+)$", path.read_text(), re.MULTILINE)
    file = f"mixalign/{target[0].replace('.', '/')}.py"
    found = with_base(path)
    keys = [key for key in found.keys if key.path != "name" and (key.value or key.comment)]
    lines = [f"| `mixer.{key.path}` | {_code(key.value)} | {_cell(key.comment)} |" for key in keys]
    table = "\n".join(["| key | default | what it is |", "| --- | --- | --- |", *lines]) if lines else "It has none."
    return PAGE.format(
        name=name,
        about=_cell(found.about),
        equations=equations_of(name),
        docstring=docstring_of(file, target[1]),
        keys=table,
        file=file,
    )


def equations_of(name: str) -> str:
    """The rule as equations with what they mean, as Markdown; the site draws them.

    Raises:
        KeyError: for a rule without one.
    """
    return str(yaml.safe_load(EQUATIONS.read_text(encoding="utf-8"))[name]).strip()


def docstring_of(file: str, name: str) -> str:
    """What a class says of itself, as Markdown: its equations in code spans, its attributes as a list.

    Raises:
        ValueError: when it says nothing.
    """
    tree = ast.parse((ROOT / file).read_text())
    (node,) = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name]
    text = ast.get_docstring(node)
    if not text:
        raise ValueError(f"{file}: `{name}` has no docstring, and its page would be empty.")
    body, _, attributes = text.partition("\nAttributes:\n")
    if not attributes:
        return _escaped(body)
    items = re.sub(r"^ {4}(\w+): ", r"- **\1**: ", attributes, flags=re.MULTILINE)
    items = re.sub(r"\n {5,}", " ", items)
    return f"{_escaped(body.rstrip())}\n\n{_escaped(items)}"


def _escaped(text: str) -> str:
    """Markdown that shows the text as it is: outside of code, underscores and angle brackets are no markup."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(part if part.startswith("`") else re.sub(r"([<_])", r"\\\1", part) for part in parts)


def _code(value: str) -> str:
    return f"`{value}`" if value else ""


def _cell(text: str) -> str:
    return re.sub(r"<", "&lt;", text).replace("|", "\\|") if "`" not in text else text.replace("|", "\\|")
