"""Searches mixers and their settings with Optuna: [--trials N] [--no-prune] key=values ...; run_dir=F goes on."""

import argparse
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

import torch

from mixalign.config.compose import compose_settings
from mixalign.config.console import log_to_console, quiet_libraries
from mixalign.config.search_space import Choice, Dimension, Space, space_of
from mixalign.config.settings import RunSettings
from mixalign.errors import MixalignError, Stopped
from mixalign.files import write_json
from mixalign.output import say
from mixalign.reporting.read.trials import TRIALS, read_search
from mixalign.reporting.show.trials import search_text
from mixalign.runs.yardstick import SPECIALISTS
from mixalign.together.hold import held
from mixalign.training.average_share import CHOSEN
from mixalign.training.callbacks.watched import watched
from mixalign.verbs.train import run

__all__ = ["main", "search"]

log = logging.getLogger(__name__)
FILE = "study.db"
STATES = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed", "RUNNING": "unfinished"}  # in TRIALS
HOPELESS = 5  # trials that are refused for one reason before anything is trained: then it is the command
TEXT = """Tries values of keys. Trials are chosen by Optuna (TPE), and ended early when
a validation is worse than the median of the others at that step. They are
judged by the worst excess (or loss) of the weights that they keep, on
validation rows; test rows stay for the report. One that fails counts, too, and
the search goes on. Several values are written as
for `mixalign train -m`, intervals as mixer.eta=tag(log,interval(0.01,1)); a key
that the chosen mixer does not have is left out. The same command with the same
run_dir goes on."""


def main() -> None:
    """`mixalign sweep` with what stands behind it on the command line."""
    quiet_libraries()
    style = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("mixalign sweep", description=TEXT, formatter_class=style)
    parser.add_argument("--trials", type=int, default=20, help="in all, with those that are finished; default: 20")
    parser.add_argument("--no-prune", dest="prune", action="store_false", help="let every trial take all its steps")
    parser.add_argument("--seed", type=int, default=0, help="of the choices; default: 0")
    parser.add_argument("keys", nargs="+", metavar="key=values", help="as for `mixalign train`")
    args = parser.parse_intermixed_args()
    log_to_console()
    own = [text for text in args.keys if text.startswith("run_dir=")]
    place = own[-1].partition("=")[2] if own else f"runs/{time.strftime('%Y-%m-%d_%H-%M-%S')}_sweep"
    space = space_of([text for text in args.keys if text not in own])
    say(search(space, Path(place), args.trials, args.prune, args.seed))


def search(space: Space, folder: Path, trials: int = 20, prune: bool = True, seed: int = 0) -> str:
    """Makes as many trials as are missing, each a run folder in `folder`.

    Returns:
        A table of all trials, and which is the best; `trials.json` in the folder has it for the report.

    Raises:
        MixalignError: without Optuna, for a folder of another search or in which one is at work, or when no trial
            could be trained and judged.
        Stopped: when the process was told to stop; the trial that was under way is gone on with the next time.
    """
    optuna = _optuna()
    with held(folder):
        return _make_trials(optuna, space, folder, trials, prune, seed)


def _make_trials(optuna: Any, space: Space, folder: Path, trials: int, prune: bool, seed: int) -> str:
    study = optuna.create_study(
        storage=f"sqlite:///{folder.absolute() / FILE}",
        study_name="mixalign",
        load_if_exists=True,
        pruner=optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=1)
        if prune
        else optuna.pruners.NopPruner(),
    )
    _check_same(study, space, folder)
    study.sampler = optuna.samplers.TPESampler(seed=seed + len(study.trials))  # going on, other values than at first
    for left in study.get_trials(states=(optuna.trial.TrialState.RUNNING,)):  # of a process that ended meanwhile
        study.tell(left.number, state=optuna.trial.TrialState.FAIL)
        study.enqueue_trial(left.params, user_attrs={"folder": left.user_attrs.get("folder", "")})
    work = _Search(optuna, study, space, folder)
    work.write()
    while len(work.ended()) < trials:
        try:
            work.make(study.ask())
        finally:
            work.write()
    if not any(one.state.name != "FAIL" for one in work.ended()):
        reasons = dict.fromkeys(_reason(one) for one in work.ended() if "same_as" not in one.user_attrs)
        raise MixalignError(f"No trial of the search in {folder} could be judged. {' '.join(reasons)}")
    return search_text(read_search(folder))


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise MixalignError(f"`mixalign sweep` needs Optuna ({error}): pip install 'mixalign[search]'.") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _check_same(study: Any, space: Space, folder: Path) -> None:
    before = study.user_attrs.get("space")
    if before is None:
        study.set_user_attr("space", repr(space))
    elif before != repr(space):
        raise MixalignError(
            f"{folder} holds a search of other keys or values. Give it those again, or name another `run_dir`; it had "
            f"{before}."
        )


@dataclass
class _Search:
    """A study under way.

    Attributes:
        known: which keys there are under which choices. `failed`: values that failed in this process, and the trial.
    """

    optuna: Any
    study: Any
    space: Space
    folder: Path
    known: dict[tuple[str, ...], bool] = field(default_factory=dict)
    failed: dict[tuple[str, ...], int] = field(default_factory=dict)

    def ended(self) -> list[Any]:
        """Trials that are not tried again; one that was stopped is gone on with as another trial, and is not here."""
        return [t for t in self.study.trials if STATES.get(t.state.name) and (t.value is not None or _reason(t))]

    def make(self, trial: Any) -> None:
        """One trial: trained, judged and told to the study; what an error says of it is its reason."""
        overrides = self.space.overrides(lambda one: _suggest(trial, one), self.known)
        chosen = overrides[len(self.space.fixed) :]
        trial.set_user_attr("overrides", chosen)
        if self._repeats(trial, chosen):
            return
        trial.set_user_attr("folder", name := trial.user_attrs.get("folder") or f"{trial.number}")
        log.info("trial %d: %s", trial.number, " ".join(chosen))
        states = self.optuna.trial.TrialState
        try:
            self.study.tell(trial, self._value(trial, overrides, name))
        except self.optuna.TrialPruned as ended:
            log.info("trial %d ends early: %s", trial.number, ended)
            trial.set_user_attr("reason", str(ended))
            self.study.tell(trial, state=states.PRUNED)
        except Stopped as stop:
            place = str(self.folder / name)
            raise Stopped(stop.text.replace(place, str(self.folder)), int(stop.code or 0)) from stop
        except Exception as error:
            reason = str(error) if isinstance(error, MixalignError) else f"{type(error).__name__}: {error}"
            trial.set_user_attr("reason", reason)
            self.study.tell(trial, state=states.FAIL)
            if not isinstance(error, MixalignError | MemoryError | torch.OutOfMemoryError):
                raise  # a mistake of the program, or of a function of the user's
            log.warning("trial %d failed: %s", trial.number, reason)
            self.failed[tuple(chosen)] = trial.number
            if len(self.failed) >= HOPELESS and self._is_hopeless(reason):
                raise

    def _is_hopeless(self, reason: str) -> bool:
        """Whether all trials were refused for this reason, and none began a run."""
        began = any((self.folder / str(t.user_attrs.get("folder")) / "config.yaml").is_file() for t in self.ended())
        return not began and all(_reason(one) == reason for one in self.ended() if "same_as" not in one.user_attrs)

    def _repeats(self, trial: Any, chosen: Sequence[str]) -> bool:
        """Whether the values were tried before, which would give the same bits again; the study is told the same."""
        done = [t for t in self.study.trials if t.user_attrs.get("overrides") == chosen and t.number != trial.number]
        same = next((t for t in done if t.state.name in ("COMPLETE", "PRUNED")), None)
        failed = self.failed.get(tuple(chosen))
        if same is None and failed is None:
            return False
        number = failed if same is None else same.number
        trial.set_user_attr("same_as", number)
        log.info("trial %d: the values of trial %d again, not trained", trial.number, number)
        state = self.optuna.trial.TrialState.FAIL if same is None else same.state
        if same is None or same.state.name == "PRUNED":
            trial.set_user_attr("reason", f"the values of trial {number} again")
            for step, value in (same.intermediate_values if same else {}).items():
                trial.report(value, step)
        self.study.tell(trial, same.value if same and same.state.name == "COMPLETE" else None, state)
        return True

    def _value(self, trial: Any, overrides: list[str], name: str) -> float:
        """Trains, and gives what the trial is judged by: the validation of the weights that it keeps.

        Raises:
            MixalignError: when it cannot be trained, or has no value that compares with those of the others.
            TrialPruned: when a validation promises nothing.
        """
        before = [t for t in self.study.trials if t.number < trial.number]
        settings = compose_settings([*overrides, *_specialists(before, self.space, self.folder)])
        _check_judged(settings)

        def look(step: int, value: float) -> None:
            trial.report(value, step)
            if trial.should_prune():
                how = "above the median of the others" if isfinite(value) else "which does not compare"
                raise self.optuna.TrialPruned(f"{value:.3f} at step {step}, {how}")

        with watched(look):
            result = run(settings, self.folder / name, True, overrides)
        monitor, value = _judged(result)
        others = dict.fromkeys(t.user_attrs["monitor"] for t in before if "monitor" in t.user_attrs)
        if any(monitor != other for other in others):
            raise MixalignError(
                f"It is judged by {monitor}, and trials before it by {', '.join(others)}: these do not compare. "
                f"Give the whole search one `export` and one `specialists.train`. Its run is in {self.folder / name}."
            )
        trial.set_user_attr("monitor", monitor)
        return value

    def write(self) -> None:
        """Writes `trials.json`."""
        trials = [t for t in self.study.trials if "overrides" in t.user_attrs and t.state.name in STATES]
        trials = [t for t in trials if t.state.name != "FAIL" or _reason(t)]
        write_json(self.folder / TRIALS, {"trials": [_entry(one) for one in trials]})


def _reason(trial: Any) -> str:
    return str(trial.user_attrs.get("reason", ""))


def _entry(trial: Any) -> dict[str, Any]:
    """What `trials.json` has of a trial; its value is a pruned one's last validation."""
    attributes = trial.user_attrs
    values = dict(text.split("=", 1) for text in attributes["overrides"])
    about = {key: attributes.get(key) for key in ("folder", "same_as", "monitor", "reason")}
    ended = {"state": STATES[trial.state.name], "value": trial.value, "step": trial.last_step}
    return {"number": trial.number, "values": values, **ended, **about}


def _suggest(trial: Any, one: Dimension) -> Any:
    if isinstance(one, Choice):
        return trial.suggest_categorical(one.key, one.values)
    if one.whole:
        return trial.suggest_int(one.key, int(one.low), int(one.high), log=one.log)
    return f"{trial.suggest_float(one.key, one.low, one.high, log=one.log):.4g}"


def _specialists(before: Sequence[Any], space: Space, folder: Path) -> list[str]:
    """All trials count excess over the specialists of the first that has some, else their values would not compare."""
    names = [one.user_attrs.get("folder") for one in before]
    first = next((folder / name for name in names if name and (folder / name / SPECIALISTS).is_file()), None)
    own = any(text.lstrip("+").startswith(("specialists.of=", "specialists.dir=")) for text in space.fixed)
    return [] if first is None or own else [f"specialists.of='{first.absolute()}'"]


def _check_judged(settings: RunSettings) -> None:
    """Refuses, before it costs anything, a trial that would have no value in the end."""
    why = ""
    if settings.mixer.cadence == "round":
        why = f"Rounds (`mixer={settings.plain['mixer']['name']}`) keep"
    elif settings.export not in CHOSEN:
        why = f"`export={settings.export}` keeps"
    if why:
        raise MixalignError(
            f"{why} weights that no validation chose, and a search compares trials by that. Leave it out here, and "
            "compare it by `mixalign train -m` and `mixalign report`."
        )


def _judged(result: Mapping[str, Any]) -> tuple[str, float]:
    """By what a finished run is judged, and its value."""
    exported = result.get("exported") or {}
    monitor, value = exported.get("monitor"), exported.get("value")
    if monitor is None or value is None or not isfinite(value):
        raise MixalignError(f"The validation of the weights that it keeps is {value}, which does not compare.")
    return str(monitor), float(value)
