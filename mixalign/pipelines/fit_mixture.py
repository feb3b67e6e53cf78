"""`mixalign fit-mixture`: fixed weights from many short runs (RegMix, arXiv 2407.01492).

Suffixes: `K` tasks, `N` runs, `Q` quantities that are predicted: the K tasks' losses, or the target alone.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import torch
import yaml
from rich.console import Console
from rich.table import Table
from torch import Tensor

from mixalign.errors import MixalignError, did_you_mean
from mixalign.files import write_text
from mixalign.mixers.regmix import REGRESSIONS, Fit, Predict, Quality, average, left_out, quality, search
from mixalign.pipelines.tried_runs import FEW, HOW, TriedRuns, tried_runs

__all__ = ["Regressed", "Settings", "regress", "run", "save_mixture", "table_text"]

WORDS = ("true", "false", "null", "inf", "nan", "yes", "no", "on", "off")  # that Hydra may read as other than text
TREE_FOLDS = 10  # of trees, each of which takes seconds where ridge takes milliseconds


@dataclass(frozen=True)
class Settings:
    """How a mixture is fitted.

    Attributes:
        target: what is to be low: `mean` or `worst` over tasks, or the name of a task.
        quantity: `loss`, or `excess` over the specialists, of the validation rows; nats.
        regression: a key of REGRESSIONS, or `lightgbm`.
        candidates: mixtures whose target is predicted.
        top: how many of them, those with the lowest target, are averaged.
        seed: of the candidates.
    """

    target: str = "mean"
    quantity: str = "loss"
    regression: str = "best"
    candidates: int = 100_000
    top: int = 128
    seed: int = 0

    def __post_init__(self) -> None:
        for key, least in (("candidates", 1), ("top", 1), ("seed", 0)):
            if getattr(self, key) < least:
                raise MixalignError(f"`{key}` of a fit is {getattr(self, key)}, but must be at least {least}.")
        if self.top > self.candidates:
            raise MixalignError(f"`top` is {self.top}, but there are only {self.candidates} candidates.")


@dataclass(frozen=True)
class Regressed:
    """A fitted mixture.

    Attributes:
        loss_K: predicted, and `target` likewise.
        of_tasks: how well the tasks' losses of runs are predicted; `of_target` likewise, Q = 1.
        target_N: the target of each run, as measured.
    """

    weight_K: Tensor
    loss_K: Tensor
    target: float
    of_tasks: Quality
    of_target: Quality
    target_N: Tensor

    @property
    def best(self) -> int:
        """Number of the run with the lowest target."""
        return int(self.target_N.argmin())


def run(inputs: Sequence[str | Path], settings: Settings, out: Path | None = None) -> None:
    """Fits the mixture, prints it with the quality of the fit, and writes it down.

    Raises:
        MixalignError: when there are too few runs, or they do not fit together.
    """
    paths = [Path(text) for text in inputs]
    if not paths:
        raise MixalignError(f"Which runs? Name their folders, or one that holds them. {HOW}")
    if keys := [path for path in paths if "=" in path.name and not path.exists()]:
        raise MixalignError(f"`{keys[0]}` is no run. Configuration keys are for --method mixmin; regmix reads runs.")
    tried = tried_runs(paths, settings.quantity)
    fitted = regress(tried, settings)
    print(_table(tried, fitted, settings))
    for note in (*tried.notes, *_cautions(tried, fitted, settings)):
        print(note)
    content = {
        "method": "regmix",
        "target": settings.target,
        "quantity": settings.quantity,
        "regression": settings.regression,
        "predicted": dict(zip(tried.tasks, fitted.loss_K.tolist(), strict=True)),
        "predicted_target": fitted.target,
        "best_run": {
            "name": tried.names[fitted.best],
            "target": float(fitted.target_N[fitted.best]),
            "weights": dict(zip(tried.tasks, tried.weight_NK[fitted.best].tolist(), strict=True)),
        },
        "left_out": {"r2": float(fitted.of_target.r2_Q), "spearman": float(fitted.of_target.spearman_Q)},
        "runs": list(tried.names),
    }
    save_mixture(tried.tasks, fitted.weight_K, content, out or paths[0] / "mixture.yaml")


def regress(tried: TriedRuns, settings: Settings) -> Regressed:
    """The mixture with the lowest predicted target, and how far the prediction can be trusted.

    Raises:
        MixalignError: for a target or a regression that nobody knows.
    """
    target, fit = _target(settings.target, tried.tasks), _regression(settings.regression)
    weight_NK, loss_NK = tried.weight_NK, tried.loss_NK
    predict = fit(weight_NK, loss_NK)
    weight_K = search(predict, target, weight_NK, candidates=settings.candidates, top=settings.top, seed=settings.seed)
    loss_K = predict(weight_K[None])[0]
    folds = TREE_FOLDS if settings.regression == "lightgbm" else None
    guess_NK = left_out(fit, weight_NK, loss_NK, folds)
    target_NQ = target(loss_NK)[:, None]
    return Regressed(
        weight_K,
        loss_K,
        float(target(loss_K[None])),
        quality(guess_NK, loss_NK, left_out(average, weight_NK, loss_NK, folds)),
        quality(target(guess_NK)[:, None], target_NQ, left_out(average, weight_NK, target_NQ, folds)),
        target_NQ[:, 0],
    )


def _target(name: str, tasks: Sequence[str]) -> Callable[[Tensor], Tensor]:
    """From the tasks' losses (M, K) to what is to be low (M,)."""
    if name == "mean":
        return lambda loss_MK: loss_MK.mean(1)
    if name == "worst":
        return lambda loss_MK: loss_MK.amax(1)
    if name not in tasks:
        raise MixalignError(f"The target is `{name}`. {did_you_mean(name, ['mean', 'worst', *tasks])}")
    return lambda loss_MK: loss_MK[:, tasks.index(name)]


def _regression(name: str) -> Fit:
    if name == "lightgbm":
        return _boosted()
    if name not in REGRESSIONS:
        raise MixalignError(f"The regression is `{name}`. {did_you_mean(name, [*REGRESSIONS, 'lightgbm'])}")
    return REGRESSIONS[name]


def _boosted() -> Fit:
    """Gradient-boosted trees with the settings of the paper's code: 1000 of them, rate 0.01.

    That code stops early by the loss of runs that it then reports; here no run is kept aside, and all 1000 are used.
    With fewer than 200 runs leaves may hold fewer than the usual 20, as else the fit would be constant.
    """
    try:
        import lightgbm
    except ImportError as error:
        raise MixalignError(
            f"The regression `lightgbm` needs LightGBM, which is missing ({error}): `pip install 'mixalign[regmix]'`. "
            "Or take --regression best."
        ) from error

    def fit(weight_NK: Tensor, loss_NQ: Tensor) -> Predict:
        leaf = min(20, max(1, len(weight_NK) // 10))
        how = {"objective": "regression", "learning_rate": 0.01, "seed": 42, "verbosity": -1, "num_threads": 1}
        how |= {"min_data_in_leaf": leaf, "min_data_in_bin": min(3, leaf), "deterministic": True}
        trees = [
            lightgbm.train(how, lightgbm.Dataset(weight_NK.numpy(), loss_N.numpy()), num_boost_round=1000)
            for loss_N in loss_NQ.T
        ]
        return lambda weight_MK: torch.stack([torch.tensor(tree.predict(weight_MK.numpy())) for tree in trees], 1)

    return fit


def _table(tried: TriedRuns, fitted: Regressed, settings: Settings) -> str:
    table = Table("task", "weight", "predicted", "R2", "Spearman", "tried", "best run")
    low_K, high_K, best_K = tried.weight_NK.amin(0), tried.weight_NK.amax(0), tried.weight_NK[fitted.best]
    for k, task in enumerate(tried.tasks):
        span = f"{low_K[k]:.3f} - {high_K[k]:.3f}"
        marks = _marks(fitted.loss_K[k], fitted.of_tasks, k)
        table.add_row(task, f"{fitted.weight_K[k]:.3f}", *marks, span, f"{best_K[k]:.3f}")
    table.add_section()
    measured = f"{fitted.target_N[fitted.best]:.3f} measured"
    table.add_row(settings.target, "", *_marks(fitted.target, fitted.of_target, 0), "", measured)
    title = f"RegMix: lowest {settings.target} {settings.quantity} (nats), from {len(tried.names)} runs"
    notes = f"best run: {tried.names[fitted.best]}; R2 and Spearman: each run as predicted from those of other mixtures"
    return f"{title}\n{table_text(table)}\n{notes}"


def _marks(value: Tensor | float, of: Quality, number: int) -> tuple[str, str, str]:
    return f"{value:.3f}", f"{of.r2_Q[number]:.2f}", f"{of.spearman_Q[number]:.2f}"


def _cautions(tried: TriedRuns, fitted: Regressed, settings: Settings) -> list[str]:
    """What speaks against the fit."""
    said, num_runs, num_tasks = [], *tried.weight_NK.shape
    if num_runs < FEW * num_tasks:
        said.append(
            f"warning: {num_runs} runs are few for {num_tasks} tasks; have {FEW * num_tasks} or more. The paper has 30 "
            f"for each. {HOW}"
        )
    if not float(fitted.of_target.r2_Q) > 0:
        said.append(
            f"warning: the fit is no better than the mean of the runs (R2 {float(fitted.of_target.r2_Q):.2f}), and so "
            "these weights mean nothing. The runs may differ by chance only: have more of them, or longer ones."
        )
    elif fitted.target >= float(fitted.target_N.min()):
        weights = _override(tried.tasks, tried.weight_NK[fitted.best])
        said.append(f"note: no mixture is predicted to be better than that of the best run, which is safer: {weights}")
    return said


def table_text(table: Table) -> str:
    """A table as aligned text, numbers to the right."""
    for column in table.columns[1:]:
        column.justify = "right"
    text = StringIO()
    Console(file=text, width=110).print(table)
    return text.getvalue().rstrip()


def save_mixture(tasks: Sequence[str], weight_K: Tensor, content: dict[str, Any], path: Path) -> None:
    """Writes the weights and what else is known of them as YAML, and prints the command that trains with them."""
    weights = {task: round(float(weight), 4) for task, weight in zip(tasks, weight_K, strict=True)}
    text = yaml.safe_dump({"weights": weights, **content}, sort_keys=False, allow_unicode=True)
    write_text(path, text)
    print(f"mixture: {path}\nmixalign train mixer=fixed {_override(tasks, weight_K)}")


def _override(tasks: Sequence[str], weight_K: Tensor) -> str:
    """Weights as the command line takes them."""
    weights = [f"{weight:.4f}".rstrip("0").rstrip(".") for weight in weight_K.tolist()]
    if all(re.fullmatch(r"[A-Za-z_][\w.-]*", task, re.ASCII) and task.lower() not in WORDS for task in tasks):
        given = ", ".join(f"{task}: {weight}" for task, weight in zip(tasks, weights, strict=True))
        return f"'mixer.weights={{{given}}}'"
    return f"'mixer.weights=[{', '.join(weights)}]'"  # names that would have to be quoted
