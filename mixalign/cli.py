"""The command line: one word for each verb, one line for each error."""

import atexit
import os
import shutil
import sys
import tempfile
from collections.abc import Callable

__all__ = ["main"]

USAGE = """usage: mixalign VERB [arguments]

with configuration keys (mixalign train --help lists them):
  train        train a generalist on several tasks; -m sweeps: mixer=uniform,ama_s seed=0,1
  plan         print rows, tokens, shares and epochs of every task, without training
  specialists  train one specialist a task, and keep them in the cache
  score        compute the frozen models' numbers of every row, and keep them in the cache

with run folders:
  evaluate     RUN [--split test]                    evaluate a trained run again
  fit-mixture  RUNS... [--target worst]              the best fixed weights; --method mixmin: from the specialists
  merge        MODELS... --out F [--method ties]     merge models; --specialists RUN: those of a run
  report       RUNS... [--baseline MIXER] [--out F]  compare runs: a table and a self-contained page

mixalign VERB --help says more."""


def main() -> None:
    """Entry point of `mixalign` and `python -m mixalign`."""
    # Lightning starts further processes from sys.argv, which by then has lost its verb
    verb = os.environ.get("MIXALIGN_VERB") if "LOCAL_RANK" in os.environ else None
    if verb is None:
        verb = sys.argv.pop(1) if len(sys.argv) > 1 else "--help"
        os.environ["MIXALIGN_VERB"] = verb
    if verb in ("-h", "--help", "help"):
        print(USAGE)
        return
    if verb in ("-V", "--version", "version"):
        from mixalign import __version__

        print(f"mixalign {__version__}")
        return
    _leave_folder_to_first(verb)
    sys.exit(_guarded(verb))


def _leave_folder_to_first(verb: str) -> None:
    """Gives all but the first process of torchrun or srun a folder to throw away: Hydra names one by the second."""
    number = os.environ.get("RANK") or os.environ.get("SLURM_PROCID") or "0"
    if verb == "train" and number != "0":
        folder = tempfile.mkdtemp(prefix="mixalign-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        sys.argv += [f"hydra.run.dir={folder}", f"hydra.sweep.dir={folder}", "hydra.sweep.subdir=${hydra.job.num}"]


def _guarded(verb: str) -> int:
    """Runs a verb; errors that a user can mend are one message, all others keep their traceback."""
    from mixalign.errors import MixalignError, Stopped, did_you_mean

    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # lets errors reach this function
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    debug = any(a.lower() == "debug=true" for a in sys.argv)
    try:
        verbs = _verbs()
        if verb not in verbs:
            raise MixalignError(f"There is no verb `{verb}`. {did_you_mean(verb, verbs)}")
        verbs[verb]()
    except Stopped as stop:
        print(f"{stop.text}. The same command with the same run_dir goes on from there.", file=sys.stderr)
        return int(stop.code or 0)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except Exception as error:
        message = _message(error)
        if debug or message is None:
            raise
        print(f"error: {message}", file=sys.stderr)
        return 1
    return 0


def _verbs() -> dict[str, Callable[[], None]]:
    from mixalign.pipelines import main as pipelines

    return {
        "train": pipelines.train,
        "plan": pipelines.plan,
        "specialists": pipelines.specialists,
        "score": pipelines.score,
        "evaluate": pipelines.evaluate,
        "fit-mixture": pipelines.fit_mixture,
        "merge": pipelines.merge,
        "report": pipelines.report,
    }


def _message(error: Exception) -> str | None:
    """What to tell the user, or None when the error is a defect of ours."""
    from mixalign.pipelines.messages import user_message

    return user_message(error)
