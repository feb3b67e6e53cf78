"""What is said in place of curves, where runs recorded a single point."""

from collections.abc import Callable, Sequence

import numpy as np

from mixalign.reporting.read.runs import Run
from mixalign.reporting.show.figures.paths import Groups, series_of
from mixalign.reporting.show.plots.series import Curves, known_part

__all__ = ["without_curves"]

SHOWN = 8  # labels that a sentence names


def without_curves(groups: Groups) -> list[str]:
    """A sentence for each quantity that no run recorded more than once; empty where there are curves, or nothing."""
    runs = [run for group in groups.values() for run in group]
    return [text for text in (_mixture(runs), _validation(groups, runs)) if text]


def _mixture(runs: Sequence[Run]) -> str:
    lengths = [len(run.mix_history.step_N) for run in runs if run.mix_history is not None]
    return "The mixture was recorded at a single step, so there is no path of it." if [*{*lengths}] == [1] else ""


def _validation(groups: Groups, runs: Sequence[Run]) -> str:
    title, series = series_of(runs)
    curves = [
        (label, known_part(one)) for label, group in groups.items() for run in group for one in series(run).values()
    ]
    if not curves or any(len(steps) > 1 for _, (steps, _) in curves):
        return ""
    steps = {float(step) for _, (steps, _) in curves for step in steps}
    when = f"at step {min(steps):.0f}" if len(steps) == 1 else "at steps that differ"
    found = {label: _worst(group, series) for label, group in groups.items()}
    shown = [f"{label} {value:.3f} ({task})" for label, (task, value) in [*found.items()][:SHOWN] if task]
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    kept = " What is kept is a mean over steps, whose numbers are in the tables." if any(map(_averaged, runs)) else ""
    return (
        f"{title} was measured once, {when}, so there are no curves. The worst task: {', '.join(shown)}{more}, in nats."
        f"{kept}"
    )


def _averaged(run: Run) -> bool:
    """Whether its model is a mean of the weights of several steps, which no point of a curve measured."""
    exported = run.eval.get("exported")
    return isinstance(exported, dict) and bool(exported.get("averaged"))


def _worst(group: Sequence[Run], series: Callable[[Run], Curves]) -> tuple[str, float]:
    """The task where it is largest, mean over seeds, and the value; no task where a label has none."""
    found: dict[str, list[float]] = {}
    for run in group:
        for task, curve in series(run).items():
            found.setdefault(task, []).extend(known_part(curve)[1])
    means = {task: float(np.mean(values)) for task, values in found.items() if values}
    return max(means.items(), key=lambda pair: pair[1], default=("", np.nan))
