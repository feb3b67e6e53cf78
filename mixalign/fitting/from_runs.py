"""A mixture from run folders, by RegMix: `mixalign fit-mixture RUNS...`."""

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from mixalign.errors import MixalignError
from mixalign.fitting.regmix import Quality, RegMixFit, RegMixSettings, fit_regmix
from mixalign.fitting.report import FittedMixture, report, weights_override
from mixalign.fitting.tried_runs import FEW, HOW_TO_MAKE_RUNS, TriedRuns, tried_runs
from mixalign.terminal import table_text, wrap

__all__ = ["fit_from_runs"]


def fit_from_runs(inputs: Sequence[str | Path], settings: RegMixSettings, out: Path | None = None) -> None:
    """Fits the mixture, prints it with the quality of the fit, and writes it down.

    Args:
        inputs: run folders, or folders that hold some.
        out: the file; None: mixture.yaml in the first of the folders.

    Raises:
        MixalignError: when there are too few runs, or they do not fit together.
    """
    paths = [Path(text) for text in inputs]
    if not paths:
        raise MixalignError(f"Which runs? Name their folders, or one that holds them. {HOW_TO_MAKE_RUNS}")
    if keys := [path for path in paths if "=" in path.name and not path.exists()]:
        raise MixalignError(f"`{keys[0]}` is no run. Configuration keys are for --method mixmin; regmix reads runs.")
    runs = tried_runs(paths, settings.quantity)
    fit = fit_regmix(runs.tasks, runs.weight_NK, runs.loss_NK, settings)
    fitted = FittedMixture(
        tasks=runs.tasks,
        weight_K=fit.weight_K,
        table=_table(runs, fit, settings),
        notes=[*map(wrap, runs.notes), *_cautions(runs, fit)],
        facts=_facts(runs, fit, settings),
    )
    report(fitted, out or paths[0] / "mixture.yaml")


def _facts(runs: TriedRuns, fit: RegMixFit, settings: RegMixSettings) -> dict[str, object]:
    best = fit.best_run
    return {
        "method": "regmix",
        "target": settings.target,
        "quantity": settings.quantity,
        "regression": settings.regression,
        "predicted": dict(zip(runs.tasks, fit.loss_K.tolist(), strict=True)),
        "predicted_target": fit.target,
        "best_run": {
            "name": runs.names[best],
            "target": float(fit.target_N[best]),
            "weights": dict(zip(runs.tasks, runs.weight_NK[best].tolist(), strict=True)),
        },
        "left_out": {"r2": float(fit.of_target.r2_Q), "spearman": float(fit.of_target.spearman_Q)},
        "runs": list(runs.names),
    }


def _table(runs: TriedRuns, fit: RegMixFit, settings: RegMixSettings) -> str:
    rows = []
    low_K, high_K, best_K = runs.weight_NK.amin(0), runs.weight_NK.amax(0), runs.weight_NK[fit.best_run]
    for k, task in enumerate(runs.tasks):
        span = f"{low_K[k]:.3f} - {high_K[k]:.3f}"
        prediction = _prediction(fit.loss_K[k], fit.of_tasks, k)
        rows.append([task, f"{fit.weight_K[k]:.3f}", *prediction, span, f"{best_K[k]:.3f}"])
    measured = f"{fit.target_N[fit.best_run]:.3f} measured"
    total = [settings.target, "", *_prediction(fit.target, fit.of_target, 0), "", measured]
    title = f"RegMix: lowest {settings.target} {settings.quantity} (nats), from {len(runs.names)} runs"
    note = f"best run: {runs.names[fit.best_run]}; R2 and Spearman: each run as predicted from those of other mixtures"
    columns = ["task", "weight", "predicted", "R2", "Spearman", "tried", "best run"]
    return table_text(columns, rows, totals=[total], title=title, note=note)


def _prediction(value: Tensor | float, quality: Quality, number: int) -> tuple[str, str, str]:
    """The cells of a predicted quantity: its value, and how well it is predicted of runs."""
    return f"{value:.3f}", f"{quality.r2_Q[number]:.2f}", f"{quality.spearman_Q[number]:.2f}"


def _cautions(runs: TriedRuns, fit: RegMixFit) -> list[str]:
    """What speaks against the fit, as lines of the terminal."""
    cautions, (num_runs, num_tasks) = [], runs.weight_NK.shape
    if num_runs < FEW * num_tasks:
        text = (
            f"warning: {num_runs} runs are few for {num_tasks} tasks; have {FEW * num_tasks} or more. The paper has 30 "
            f"for each. {HOW_TO_MAKE_RUNS}"
        )
        cautions.append(wrap(text))
    if not float(fit.of_target.r2_Q) > 0:
        text = (
            f"warning: the fit is no better than the mean of the runs (R2 {float(fit.of_target.r2_Q):.2f}), and so "
            "these weights mean nothing. The runs may differ by chance only: have more of them, or longer ones."
        )
        cautions.append(wrap(text))
    elif fit.target >= float(fit.target_N.min()):
        text = "note: no mixture is predicted to be better than that of the best run, which is safer:"
        weights = weights_override(runs.tasks, runs.weight_NK[fit.best_run])
        cautions.append(f"{wrap(text)}\n{weights}")  # the weights stay whole, for copying
    return cautions
