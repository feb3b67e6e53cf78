"""Searches mixers and their settings with Optuna: [--trials N] [--no-prune] key=values ...; run_dir=F goes on."""

import argparse
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mixalign.config.compose import compose_settings
from mixalign.config.console import log_to_console, quiet_libraries
from mixalign.config.search_space import Choice, Dimension, Space, space_of
from mixalign.errors import MixalignError, Stopped
from mixalign.output import say
from mixalign.terminal import Column, table_text
from mixalign.training.callbacks.watched import watched
from mixalign.verbs.train import run

__all__ = ["main", "search"]

log = logging.getLogger(__name__)
FILE = "study.db"
TEXT = """Tries values of keys. Trials are chosen by Optuna (TPE), and ended early when
a validation is worse than the median of the others at that step. They are
judged by the worst excess (or loss) of the weights that they keep, on
validation rows; test rows stay for the report. Several values are written as
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
        A table of all trials, and which is the best.

    Raises:
        MixalignError: without Optuna, for a folder of another search, or when no trial could be trained.
        Stopped: when the process was told to stop; the trial that was under way is gone on with the next time.
    """
    optuna = _optuna()
    folder.mkdir(parents=True, exist_ok=True)
    study = optuna.create_study(
        storage=f"sqlite:///{folder.absolute() / FILE}",
        study_name="mixalign",
        load_if_exists=True,
        sampler=optuna.samplers.TPESampler(seed=seed),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=1)
        if prune
        else optuna.pruners.NopPruner(),
    )
    _check_same(study, space, folder)
    states = optuna.trial.TrialState
    for left in study.get_trials(states=(states.RUNNING,)):  # of a process that ended meanwhile
        study.tell(left.number, state=states.FAIL)
        study.enqueue_trial(left.params, user_attrs={"folder": left.user_attrs.get("folder", "")})
    known: dict[tuple[str, ...], bool] = {}
    ended = (states.COMPLETE, states.PRUNED)
    while len(study.get_trials(states=ended)) < trials:  # one that failed does not count
        _try(optuna, study, study.ask(), space, folder, known)
    return _table(study, folder)


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


def _try(optuna: Any, study: Any, trial: Any, space: Space, folder: Path, known: dict[tuple[str, ...], bool]) -> None:
    """One trial: trained, judged and told to the study."""
    overrides = space.overrides(lambda one: _suggest(trial, one), known)
    name = trial.user_attrs.get("folder") or f"{trial.number}"
    chosen = overrides[len(space.fixed) :]
    same = [one for one in study.trials if one.user_attrs.get("overrides") == chosen and one.value is not None]
    if same:  # the same bits again
        trial.set_user_attr("same_as", same[0].number)
        log.info("trial %d: the values of trial %d again, not trained", trial.number, same[0].number)
        study.tell(trial, same[0].value)
        return
    trial.set_user_attr("folder", name)
    trial.set_user_attr("overrides", chosen)
    log.info("trial %d: %s", trial.number, " ".join(chosen))

    def look(step: int, value: float) -> None:
        trial.report(value, step)
        if trial.should_prune():
            raise optuna.TrialPruned(f"worst excess {value:.3f} at step {step}")

    try:
        settings = compose_settings([*overrides, *_specialists(study, space, folder, trial.number)])
        with watched(look):
            result = run(settings, folder / name, True, overrides)
    except optuna.TrialPruned as reason:
        log.info("trial %d ends early: %s", trial.number, reason)
        study.tell(trial, state=optuna.trial.TrialState.PRUNED)
    except MixalignError as error:
        study.tell(trial, state=optuna.trial.TrialState.FAIL)
        if not any(one.state.name in ("COMPLETE", "PRUNED") for one in study.trials):
            raise
        log.warning("trial %d failed: %s", trial.number, error)
        if sum(one.state.name == "FAIL" for one in study.trials) > len(study.trials) / 2 + 2:
            raise
    except Stopped as stop:
        raise Stopped(stop.text.replace(str(folder / name), str(folder)), int(stop.code or 0)) from stop
    else:
        study.tell(trial, _value(result))


def _suggest(trial: Any, one: Dimension) -> Any:
    if isinstance(one, Choice):
        return trial.suggest_categorical(one.key, one.values)
    if one.whole:
        return trial.suggest_int(one.key, int(one.low), int(one.high), log=one.log)
    return f"{trial.suggest_float(one.key, one.low, one.high, log=one.log):.4g}"


def _specialists(study: Any, space: Space, folder: Path, number: int) -> list[str]:
    """All trials count excess over the specialists of the first, else their values would not compare."""
    others = [one.user_attrs.get("folder") for one in study.trials if one.number < number]
    first = next((folder / name for name in others if name and (folder / name / "config.yaml").is_file()), None)
    own = any(text.lstrip("+").startswith(("specialists.of=", "specialists.dir=")) for text in space.fixed)
    return [] if first is None or own else [f"specialists.of='{first.absolute()}'"]


def _value(result: Mapping[str, Any]) -> float:
    """What a trial is judged by: the validation of the weights that it keeps.

    Raises:
        MixalignError: for a run in rounds, which keeps its last weights and is judged by the target loss.
    """
    value = result.get("exported", {}).get("value")
    if value is None:
        raise MixalignError(
            f"A run of `mixer={result['mixer']}` has no validation that it keeps weights by, and cannot be compared "
            "with others here. Take `mixalign train -m`."
        )
    return float(value)


def _table(study: Any, folder: Path) -> str:
    done = [one for one in study.trials if one.state.name in ("COMPLETE", "PRUNED") and "folder" in one.user_attrs]
    done.sort(key=lambda one: (one.state.name == "PRUNED", one.value if one.value is not None else 0.0))
    rows = [
        [
            one.user_attrs["folder"],
            " ".join(one.user_attrs["overrides"]),
            f"{one.value:.4f}" if one.state.name == "COMPLETE" else "ended early",
        ]
        for one in done
    ]
    heads = [Column("trial", text=True), Column("values", text=True), Column("validation")]
    note = f"best: {folder / done[0].user_attrs['folder']}\n"
    note += f"next: `mixalign report {folder}` compares the finished ones on test rows"
    return table_text(heads, rows, title=f"{len(done)} different trials, by worst excess on validation rows", note=note)
