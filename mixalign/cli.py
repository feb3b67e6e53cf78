"""The command line: one word for each file of `verbs/`, one line for each error."""

import ast
import atexit
import gc
import logging
import os
import shutil
import signal
import sys
import tempfile
from importlib import import_module
from pathlib import Path
from types import ModuleType

from mixalign.output import finish, is_lost, lenient, say

__all__ = ["main"]

USAGE = """usage: mixalign VERB [arguments]

with configuration keys (mixalign train --help lists them):
{with_keys}

others:
{others}

mixalign VERB --help says more."""


def main() -> None:
    """Entry point of `mixalign` and `python -m mixalign`."""
    # Lightning starts further processes from sys.argv, which by then has lost its verb
    verb = os.environ.get("MIXALIGN_VERB") if "LOCAL_RANK" in os.environ else None
    if verb is None:
        verb = sys.argv.pop(1) if len(sys.argv) > 1 else "--help"
        os.environ["MIXALIGN_VERB"] = verb
    lenient()
    if verb in ("-h", "--help", "help"):
        say(_usage())
        return
    if verb in ("-V", "--version", "version"):
        from mixalign import __version__

        say(f"mixalign {__version__}")
        return
    _leave_folder_to_first(verb)
    code = _guarded(verb)
    # the exit status is known: a SIGTERM shall not replace it in the second that Python takes to unload torch
    atexit.register(signal.signal, signal.SIGTERM, signal.SIG_IGN)
    finish()
    sys.exit(code)


def verbs() -> dict[str, Path]:
    """Verb -> its file."""
    files = sorted((Path(__file__).parent / "verbs").glob("[a-z]*.py"))
    return {file.stem.replace("_", "-"): file for file in files}


def _usage() -> str:
    """Every verb with the first line of its file, which is read and not run: that would load torch."""
    lines = {verb: _line(verb, file) for verb, file in verbs().items()}
    with_keys = "\n".join(line for verb, line in lines.items() if _takes_keys(verb))
    others = "\n".join(line for verb, line in lines.items() if not _takes_keys(verb))
    return USAGE.format(with_keys=with_keys, others=others)


def _takes_keys(verb: str) -> bool:
    """Whether it takes configuration keys, and no arguments of its own."""
    return "\nimport argparse\n" not in verbs()[verb].read_text("utf-8")


def _line(verb: str, file: Path) -> str:
    text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    what, _, usage = text.splitlines()[0].rstrip(".").partition(": ")
    return f"  {verb:11}  {what}" + (f"\n{'':15}{usage}" if usage else "")


def _leave_folder_to_first(verb: str) -> None:
    """Gives all but the first process of torchrun or srun a folder to throw away: Hydra names one by the second."""
    number = os.environ.get("RANK") or os.environ.get("SLURM_PROCID") or "0"
    if verb == "train" and number != "0":
        folder = tempfile.mkdtemp(prefix="mixalign-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        sys.argv += [f"hydra.run.dir={folder}", f"hydra.sweep.dir={folder}", "hydra.sweep.subdir=${hydra.job.num}"]


def _guarded(verb: str) -> int:
    """Runs a verb; errors that a user can mend are one message, all others keep their traceback."""
    from mixalign.config.compose import as_today
    from mixalign.config.console import ConsoleHandler
    from mixalign.config.first_look import asks_for_help, check_words, help_text
    from mixalign.errors import MixalignError, Stopped, did_you_mean
    from mixalign.stopping import heed, stage
    from mixalign.training.threads import wait_passively

    wait_passively()
    logging.lastResort = ConsoleHandler(logging.WARNING)  # of verbs that compose no configuration
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # lets errors reach this function
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    debug = any(a.lower() == "debug=true" for a in sys.argv)
    try:
        with heed(), stage(f"`mixalign {verb}`", again="The same command begins again."):
            if verb not in verbs():
                raise MixalignError(f"There is no verb `{verb}`. {did_you_mean(verb, verbs())}")
            if _takes_keys(verb):
                if asks_for_help(sys.argv[1:]):
                    say(help_text(verb, verbs()[verb], sys.argv[1:]))
                    return 0
                sys.argv[1:] = as_today(sys.argv[1:])  # here, so that an old name is told once
                check_words(verb, sys.argv[1:])
            _load(verb).main()
    except Stopped as stop:
        _print_line(stop.text)
        return int(stop.code or 0)
    except KeyboardInterrupt:
        _print_line("stopped")
        return 130
    except Exception as error:
        if isinstance(error, OSError) and is_lost():  # of a library that prints, as --help of a verb
            return 1
        message = _message(error)
        if debug or message is None:
            raise
        _print_line(f"error: {message}")
        return 1
    return 0


def _load(verb: str) -> ModuleType:
    """The file of a verb; what it imports stays until the exit, so that no collection of garbage needs to look at it.

    Such collections take a fifth of the time of the imports, and more than a second at the exit.
    """
    name, is_first = f"mixalign.verbs.{verb.replace('-', '_')}", "torch" not in sys.modules
    if not (is_first and gc.isenabled()):
        return import_module(name)
    atexit.register(_leave_memory)
    gc.disable()
    try:
        return import_module(name)
    finally:
        gc.freeze()
        gc.enable()


def _leave_memory() -> None:
    """Finalises what is garbage by now, and leaves the rest to the system."""
    gc.collect()
    gc.freeze()


def _print_line(text: str) -> None:
    from mixalign.terminal import print_line

    print_line(text)


def _message(error: Exception) -> str | None:
    """What to tell the user, or None when the error is a defect of ours."""
    from mixalign.config.messages import user_message

    return user_message(error)
