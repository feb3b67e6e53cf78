"""The keys of a task with their comments, from the source of the class that checks them: nothing is imported."""

import ast
import io
import tokenize
from pathlib import Path

from mixalign.config.yaml_comments import Key

__all__ = ["task_keys"]

SPEC, CLASS = Path(__file__).parents[1] / "data" / "read" / "spec.py", "TaskSpec"


def task_keys() -> list[Key]:
    """Each key with its default and its comment: the lines above it, or what stands behind it."""
    source = SPEC.read_text(encoding="utf-8")
    comments = {
        token.start[0]: token.string.lstrip("# ")
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    (found,) = (node for node in ast.parse(source).body if isinstance(node, ast.ClassDef) and node.name == CLASS)
    keys, end = [], found.lineno
    for node in found.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            said = [comments[line] for line in range(end + 1, (node.end_lineno or 0) + 1) if line in comments]
            keys.append(Key(node.target.id, _default(node.value), " ".join(said)))
        end = node.end_lineno or end
    return keys


def _default(node: ast.expr | None) -> str:
    """As YAML has it."""
    if isinstance(node, ast.Call):
        return "{}"
    value = ast.literal_eval(node) if node is not None else None
    return {None: "null", True: "true", False: "false"}.get(value, str(value))
