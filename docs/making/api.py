"""A page for Python users, of every public name, and one for each protocol that users implement; by mkdocstrings."""

import ast
from pathlib import Path

__all__ = ["api_pages"]

ROOT = Path(__file__).resolve().parents[2]
HEAD = """# Python

`from mixalign import ...` gives the names below, and they stay.
[examples/own_script.py](../examples/own_script.py) uses them from rows to the excess of
each task, in a Lightning script without any configuration; `train` is `mixalign train`.

::: mixalign.train
"""
GROUPS = {
    "Data": ("MixtureData", "TaskSpec"),
    "Models": ("LoRA", "add_lora", "TinyLlama", "score_reference", "score_specialist"),
    "Training": ("AlignModule", "Optimizer", "Mixing", "TaskLog", "probes_for"),
    "Objectives": ("DPO", "KTO", "SFT"),
    "Results": ("Result", "MixalignError"),
}
"""Headings to names; what is in none of them is a mixer."""

RULES = """# For your own rule

What a mixer may be, says and is given. [Add a mixer](adding_a_mixer.md) has the three steps.

::: mixalign.mixers.base
    options:
      members: [Mixer, Rule, Mix, MixSignal]

::: mixalign.objectives.base
"""


def api_pages() -> dict[str, str]:
    """Path below docs/ to Markdown."""
    places = public_names()
    grouped = {name for names in GROUPS.values() for name in names}
    groups = GROUPS | {"Mixers": tuple(name for name in places if name not in grouped)}
    parts = [HEAD]
    for heading, names in groups.items():
        parts.append("\n\n".join([f"## {heading}", *(f"::: mixalign.{places[name]}.{name}" for name in names)]))
    return {"python.md": "\n\n".join(parts) + "\n", "python_rules.md": RULES}


def public_names() -> dict[str, str]:
    """The names of `mixalign` and their modules, without importing it."""
    tree = ast.parse((ROOT / "mixalign" / "__init__.py").read_text())
    (places,) = [
        node.value for node in tree.body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "PLACES"
    ]
    return ast.literal_eval(places)
