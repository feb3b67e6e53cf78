"""The command line: verbs, help, and one line for each error."""

import json
import subprocess
import sys
from importlib import import_module

import pytest

from mixalign import __version__
from mixalign import cli as command_line
from mixalign.verbs import evaluate, report, train
from tests.tiny_runs import FIRST_TASK

VERBS = ("train", "plan", "specialists", "score", "evaluate", "fit-mixture", "merge", "report")


@pytest.fixture
def call(monkeypatch, capsys):
    """Runs `main` in this process; gives the exit code, stdout and stderr."""
    for name in ("MIXALIGN_VERB", "HYDRA_FULL_ERROR", "HF_HUB_DISABLE_PROGRESS_BARS", "HF_HUB_DISABLE_TELEMETRY"):
        monkeypatch.setenv(name, "1")  # so that they are restored afterwards
    monkeypatch.delenv("LOCAL_RANK", raising=False)

    def go(*arguments):
        monkeypatch.setattr(sys, "argv", ["mixalign", *map(str, arguments)])
        try:
            command_line.main()
            code = 0
        except SystemExit as stop:
            code = stop.code
        return code, *capsys.readouterr()

    return go


@pytest.mark.parametrize("arguments", [(), ("--help",), ("-h",), ("help",)])
def test_help_names_every_verb(call, arguments):
    code, out, err = call(*arguments)
    assert (code, err) == (0, "")
    for verb in command_line.verbs():
        assert f"\n  {verb} " in out


@pytest.mark.parametrize("word", ["--version", "-V", "version"])
def test_version(call, word):
    assert call(word) == (0, f"mixalign {__version__}\n", "")


@pytest.mark.parametrize(
    ("word", "hint"), [("tran", "Did you mean `train`?"), ("xyz", f"Known: {', '.join(command_line.verbs())}.")]
)
def test_an_unknown_verb_is_one_line(call, word, hint):
    code, out, err = call(word)
    assert (code, out) == (1, "")
    assert err.startswith(f"error: There is no verb `{word}`. {hint}")
    assert err.count("\n") == 1


def test_every_verb_is_in_the_help_and_has_a_function():
    assert {*VERBS} <= {*command_line.verbs()}
    for verb in command_line.verbs():
        assert callable(import_module(f"mixalign.verbs.{verb.replace('-', '_')}").main)


def test_help_fits_a_terminal(call):
    assert max(map(len, call()[1].splitlines())) <= 80


@pytest.mark.parametrize("verb", ["evaluate", "report"])
def test_a_folder_without_runs_is_one_line(call, tmp_path, verb):
    code, _, err = call(verb, tmp_path)
    assert code == 1
    assert err.startswith("error: ")
    assert str(tmp_path) in err
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_split_is_refused_with_the_known_ones(call, finished):
    before = sorted(path.name for path in finished.iterdir())
    code, _, err = call("evaluate", finished, "--split", "tests")
    assert code == 2
    assert "invalid choice: 'tests'" in err
    assert "validation" in err
    assert sorted(path.name for path in finished.iterdir()) == before


def test_a_defect_of_ours_keeps_its_traceback(call, monkeypatch, tmp_path):
    def broken(*_):
        raise ZeroDivisionError("ours")

    monkeypatch.setattr("mixalign.verbs.report.find_runs", broken)
    with pytest.raises(ZeroDivisionError):
        call("report", tmp_path)


def test_debug_keeps_the_traceback_of_every_error(call, tmp_path, monkeypatch):
    from mixalign.errors import MixalignError

    monkeypatch.setattr(evaluate, "main", lambda: (_ for _ in ()).throw(MixalignError("told")))
    assert call("evaluate", tmp_path)[2] == "error: told\n"
    with pytest.raises(MixalignError):
        call("evaluate", "debug=true")


def test_a_second_process_finds_its_verb(call, monkeypatch):
    """Lightning starts it from a sys.argv that has lost the verb."""
    called = []
    monkeypatch.setattr(train, "main", lambda: called.append(sys.argv[1:]))
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("MIXALIGN_VERB", "train")
    assert call("steps=3")[0] == 0
    assert called == [["steps=3"]]


@pytest.mark.long
@pytest.mark.parametrize("verb", ["report", "evaluate"])
def test_a_warning_says_that_it_is_one(tmp_path, verb):
    """Also of verbs that compose no configuration, which sets up what is logged."""
    code = (
        "import logging, sys; from mixalign import cli; from mixalign.verbs import {verb}; "
        "{verb}.main = lambda: logging.getLogger('mixalign.x').warning('odd'); sys.argv = ['mixalign', '{verb}']; "
        "cli.main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code.format(verb=verb)], cwd=tmp_path, capture_output=True, text=True, timeout=100
    )
    assert done.stderr == "warning: odd\n"


def test_an_interrupt_says_so(call, monkeypatch):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr(report, "main", interrupted)
    assert call("report", ".") == (130, "", "stopped\n")


def test_report_writes_a_page_and_prints_a_table(call, finished, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    code, out, err = call("report", finished, "--out", tmp_path / "page.html")
    assert (code, err) == (0, "")
    assert "ama_s" in out
    table, _, place = out.rstrip().rpartition("\n\n")
    assert max(map(len, table.splitlines())) <= 80
    assert place == f"report: {tmp_path / 'page.html'}"  # on one line, however long
    assert (tmp_path / "page.html").read_text().lstrip().lower().startswith("<!doctype html")


@pytest.fixture
def own_mixer(tmp_path):
    """A module and a configuration outside the package."""
    (tmp_path / "own_mixers.py").write_text(FIRST_TASK)
    (tmp_path / "mixer").mkdir()
    (tmp_path / "mixer" / "mine.yaml").write_text("_target_: own_mixers.FirstTask\nname: mine\nshare: 0.8\n")
    return tmp_path


@pytest.mark.long
def test_a_mixer_of_the_users_own(cli, tiny, own_mixer, tmp_path):
    root = command_line.__file__.rpartition("/mixalign/")[0]
    settings = [*tiny("mixer=mine", "mixer.share=0.7", "specialists.train=never"), f"run_dir={tmp_path / 'run'}"]
    own = {"PYTHONPATH": f"{root}:{own_mixer}", "MIXALIGN_TARGETS": "own_mixers.FirstTask"}
    done = cli("train", "--config-dir", str(own_mixer), *settings, **own)
    assert done.returncode == 0, done.stderr
    mixture = json.loads((tmp_path / "run" / "mixture.json").read_text())
    assert mixture["sample_mean"] == pytest.approx([0.7, 0.15, 0.15])
    assert json.loads((tmp_path / "run" / "eval.json").read_text())["mixer"] == "mine"


def test_a_mixer_of_the_users_own_must_be_allowed(tiny, refuse, own_mixer, monkeypatch):
    monkeypatch.syspath_prepend(own_mixer)
    monkeypatch.delenv("MIXALIGN_TARGETS", raising=False)
    message = refuse(tiny(f"hydra.searchpath=[file://{own_mixer}]", "mixer=mine"))
    assert "`_target_: own_mixers.FirstTask` may not be built" in message
    assert "MIXALIGN_TARGETS" in message


LATE = """
import atexit, os, signal

class Last:
    def __del__(self, kill=os.kill, number=os.getpid()):
        kill(number, signal.SIGTERM)

last = Last()
atexit.register(os.kill, os.getpid(), signal.SIGTERM)
from mixalign.cli import main
main()
"""


@pytest.mark.slow
def test_a_signal_does_not_change_what_a_finished_command_says(tmp_path):
    """It comes while Python ends, which takes about a second once torch is loaded."""
    done = subprocess.run(
        [sys.executable, "-c", LATE, "no-such-verb"], cwd=tmp_path, capture_output=True, text=True, timeout=100
    )
    assert (done.returncode, done.stderr.count("error: ")) == (1, 1), done.stderr


def test_what_a_verb_imports_is_left_out_of_collections_and_garbage_is_finalised_at_the_exit():
    code = (
        "import gc\nfrom mixalign import cli\n"
        "cli._load('cache')\nassert gc.isenabled() and gc.get_freeze_count()\n"
        "class Kept:\n    def __del__(self): print('finalised')\n"
        "kept = Kept()\nkept.itself = kept\ndel kept"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=200)
    assert result.stdout == "finalised\n"
