"""Standard output that is full, closed or knows few letters ends no command whose files are whole."""

import io
import subprocess
import sys
from pathlib import Path

import pytest

from mixalign import output, terminal
from tests.tiny_runs import ROOT

SECONDS = 120


@pytest.fixture
def written(monkeypatch):
    """Standard output of an encoding, into bytes."""

    def go(encoding: str) -> io.BytesIO:
        content = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(content, encoding))
        return content

    return go


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_letters_that_cannot_be_written_are_escaped(written, encoding):
    content = written(encoding)
    assert output.say("m\u00e4rchen \u2192") == ""
    wanted = {"ascii": "m\\xe4rchen \\u2192", "latin-1": "m\u00e4rchen \\u2192", "utf-8": "m\u00e4rchen \u2192"}
    assert content.getvalue().decode(encoding).rstrip() == wanted[encoding]


def test_what_libraries_print_is_escaped(written):
    content = written("ascii")
    output.lenient()
    print("m\u00e4rchen", flush=True)
    assert content.getvalue().strip() == b"m\\xe4rchen"


def test_without_standard_output_nothing_is_said(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    assert output.say("x") == ""
    assert not output.is_lost()


def test_a_terminal_that_is_gone_ends_nothing(monkeypatch):
    """Log lines go on after `2>&1 | head -1`, after a hang-up, and where there never was any."""

    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    for stream in (Gone(), None):
        monkeypatch.setattr(sys, "stderr", stream)
        terminal.print_line("still here")
    monkeypatch.setattr(sys, "stderr", last := io.StringIO())
    terminal.print_line("still here")
    assert last.getvalue() == "still here\n"


CODE = """
import sys
from types import ModuleType
from mixalign.cli import main
from mixalign.terminal import print_line, say_result

def report():
    open("page", "w").close()
    for n in range(3):
        print_line("log line")
        say_result("m\\u00e4rchen " * 20_000)

verb = sys.modules["mixalign.verbs.report"] = ModuleType("mixalign.verbs.report")
verb.main = report
sys.argv = ["mixalign", "report"]
main()
"""


def run(shell: str, folder: Path) -> subprocess.CompletedProcess:
    env = {"CODE": CODE, "PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "PY": sys.executable}
    command = ["bash", "-c", shell]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=SECONDS)


@pytest.mark.parametrize(
    ("redirect", "said"),
    [
        ("> /dev/full", "warning: standard output could not be written (No space left on device)"),
        ("| head -c 1 > /dev/null", "log line"),
        (">&-", "log line"),
        ("2>&1 | head -c 1 > /dev/null", ""),
        ("> out", "log line"),
    ],
)
def test_a_finished_command_is_finished(tmp_path, redirect, said):
    done = run(f'PYTHONIOENCODING=ascii $PY -c "$CODE" {redirect}; exit ${{PIPESTATUS[0]}}', tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "page").is_file()
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    assert said in done.stderr


def test_help_that_nobody_reads(tmp_path):
    done = run("$PY -m mixalign --help > /dev/full", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
