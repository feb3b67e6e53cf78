"""Nothing waits for another process or thread without a bound: neither the package nor its tests."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted(
    path.relative_to(ROOT).as_posix() for part in ("mixalign", "tests") for path in (ROOT / part).rglob("*.py")
)
RUNS = ("subprocess.run", "subprocess.check_output", "subprocess.check_call", "subprocess.call")


def unbounded(source: str) -> list[str]:
    """Calls that may wait for ever: joins, waits, results and locks without a time, and commands without a timeout."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name, words = ast.unparse(node.func), {word.arg for word in node.keywords}
        last = name.rpartition(".")[2] if "." in name else ""
        bare = not node.args and not node.keywords
        if (last in ("join", "acquire") and bare) or (last == "communicate" and "timeout" not in words):
            found.append(f"line {node.lineno}: {name}() without a timeout")
        if name in RUNS and "timeout" not in words:
            found.append(f"line {node.lineno}: {name} without a timeout")
        if last == "Popen" or not bare or last not in ("wait",):
            continue
        found.append(f"line {node.lineno}: {name}() without a timeout")
    return found


@pytest.mark.parametrize("file", FILES)
def test_every_wait_has_an_end(file):
    assert unbounded((ROOT / file).read_text()) == []


@pytest.mark.parametrize(
    "source",
    ["thread.join()", "process.wait()", "lock.acquire()", "p.communicate('x')", "subprocess.run(['ls'], check=True)"],
)
def test_the_rule_finds_what_it_should(source):
    assert len(unbounded(source)) == 1


@pytest.mark.parametrize("source", ["', '.join(words)", "thread.join(5)", "p.wait(timeout=1)", "wait()", "b.wait(1)"])
def test_the_rule_lets_pass_what_it_should(source):
    assert unbounded(source) == []
