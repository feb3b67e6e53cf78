"""The verbs, as the command line calls them."""

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from mixalign.errors import MixalignError
from mixalign.pipelines.build import CONF, register_resolvers
from mixalign.pipelines.console import quiet_libraries
from mixalign.pipelines.messages import user_message
from mixalign.pipelines.overrides import with_new_tasks

__all__ = ["evaluate", "fit_mixture", "merge", "plan", "report", "score", "specialists", "train"]


def train() -> None:
    from mixalign.pipelines.train import run

    def job(cfg: DictConfig) -> float | None:
        settings = HydraConfig.get()
        result = run(cfg, Path(settings.runtime.output_dir), settings.mode == RunMode.MULTIRUN)
        worst = result["worst"].get("excess", result["worst"]["loss"])
        return float(worst["value"])  # what a sweeper that searches minimises

    _with_config(job)


def plan() -> None:
    from mixalign.pipelines.plan import run

    _with_config(run, "hydra.run.dir=.", "hydra.output_subdir=null", "hydra/job_logging=console")


def specialists() -> None:
    from mixalign.pipelines.specialists import run

    _with_config(run, "hydra.run.dir=.", "hydra.output_subdir=null", "hydra/job_logging=console")


def score() -> None:
    from mixalign.pipelines.score import run

    _with_config(run, "hydra.run.dir=.", "hydra.output_subdir=null", "hydra/job_logging=console")


def evaluate() -> None:
    from mixalign.pipelines.evaluate import run

    quiet_libraries()
    parser = argparse.ArgumentParser("mixalign evaluate", description="Evaluates the model of a run folder again.")
    parser.add_argument("run", type=Path, help="a run folder")
    parser.add_argument("--split", default="test", choices=["train", "validation", "test"])
    run(**vars(parser.parse_args()))


def merge() -> None:
    from mixalign.models.merge_methods import METHODS, Merge
    from mixalign.pipelines.merge import run
    from mixalign.pipelines.merge_search import Search

    quiet_libraries()
    parser = argparse.ArgumentParser("mixalign merge", description="Merges the weights of models of one base.")
    add = parser.add_argument
    add("models", type=Path, nargs="*", help="models, adapters, runs or specialists of the cache")
    add("--method", default="linear", choices=list(METHODS))
    add("--weights", type=_numbers, help="one a model, as in .5,.5; default: equal ones that sum to 1")
    add("--base", type=Path, help="the model that all started from; default: the one that adapters name")
    add("--scale", type=float, default=1.0, help="lambda, on the merged differences to the base")
    add("--density", type=float, default=0.5, help="share that ties keeps by magnitude, and dare at random")
    add("--trim", default="model", choices=["model", "tensor"], help="of what ties keeps a share")
    add("--rescale", default="density", choices=["density", "l1", "none"], help="of what dare keeps; mergekit: l1")
    add("--normalise", action=argparse.BooleanOptionalAction, help="divide by the weights; default: as the method does")
    add("--seed", type=int, default=0, help="of dare's masks and of the search")
    add("--out", type=Path, help="the folder that gets the merge")
    add("--specialists", type=Path, metavar="RUN", help="merge this run's specialists into a run beside it, for report")
    add("--search", type=Path, metavar="RUN", help="search the weights on this run's validation rows")
    add("--trials", type=int, default=11, help="weights to try")
    add("--scales", type=_numbers, help="scales to try with each; default: --scale")
    add("--target", default="worst", choices=["worst", "mean"], help="excess (or loss) of the tasks to make low")
    given = vars(parser.parse_args())
    search = Search(given.pop("trials"), given.pop("scales"), given.pop("target"), given["seed"])
    places = {key: given.pop(key) for key in ("models", "base", "out", "specialists", "search")}
    run(places.pop("models"), Merge(**given), **places, settings=search)


FIT_USAGE = """%(prog)s RUNS... [--target T] [--regression R] [--out F]
       %(prog)s --method mixmin KEY=VALUE... [--out F]"""
FIT_TEXT = """Finds fixed weights of the tasks, prints them, and writes them to a file.

regmix (arXiv 2407.01492) fits the validation loss to the mixtures of many short runs, and takes the mixture with the
lowest prediction:
  mixalign train -m mixer=random_mixture 'mixer.draw=range(0,32)' specialists.train=never steps=100 run_dir=runs/tried
  mixalign fit-mixture runs/tried --target worst

mixmin (arXiv 2502.10510) takes the weights with which the specialists' probabilities, averaged, fit the rows of
data.reference best: by default every task's validation rows. It trains the specialists that are missing:
  mixalign fit-mixture --method mixmin data=domains objective=sft"""


def fit_mixture() -> None:
    from mixalign.pipelines import fit_mixmin
    from mixalign.pipelines.fit_mixture import Settings, run

    quiet_libraries()
    style = partial(argparse.RawDescriptionHelpFormatter, max_help_position=16, width=112)
    parser = argparse.ArgumentParser(
        "mixalign fit-mixture", usage=FIT_USAGE, description=FIT_TEXT, formatter_class=style
    )
    add = parser.add_argument
    add("inputs", nargs="*", metavar="RUNS", help="run folders, or folders that hold some; of mixmin: KEY=VALUE...")
    add("--method", metavar="M", default="regmix", choices=["regmix", "mixmin"], help="regmix (the default) or mixmin")
    add("--out", metavar="F", type=Path, help="default: mixture.yaml in the first of RUNS; of mixmin: right here")
    add = parser.add_argument_group("options of regmix").add_argument
    add("--target", metavar="T", help="what is to be low: mean (the default), worst, or the name of a task")
    quantity = "loss (the default) or excess over the specialists, of the validation rows"
    add("--quantity", metavar="Q", choices=["loss", "excess"], help=quantity)
    regression = (
        "best (the default): of the next two the one that errs less, for each task; linear: ridge on the weights; "
        "quadratic: ridge on products of two; lightgbm: trees, as in the paper, for hundreds of runs"
    )
    add("--regression", metavar="R", choices=["best", "linear", "quadratic", "lightgbm"], help=regression)
    add("--candidates", metavar="N", type=int, help="mixtures whose loss is predicted; default: 100000")
    add("--top", metavar="N", type=int, help="how many of them, the lowest, are averaged; default: 128")
    add("--seed", metavar="N", type=int, help="of the candidates; default: 0")
    given = {key: value for key, value in vars(parser.parse_intermixed_args()).items() if value is not None}
    inputs, method, out = given.pop("inputs"), given.pop("method"), given.pop("out", None)
    if method == "regmix":
        run(inputs, Settings(**given), out)
        return
    if given:
        raise MixalignError(f"--{next(iter(given))} is of regmix; mixmin fits to the rows of `data.reference`.")
    sys.argv[1:] = inputs
    fixed = ("hydra.run.dir=.", "hydra.output_subdir=null", "hydra/job_logging=console")
    _with_config(lambda cfg: fit_mixmin.run(cfg, out and str(out)), *fixed)


def report() -> None:
    from mixalign.pipelines.report import run

    parser = argparse.ArgumentParser("mixalign report", description="Compares runs: a table and a self-contained page.")
    parser.add_argument("runs", type=Path, nargs="+", help="run folders, or folders that hold some")
    parser.add_argument("--baseline", help="mixer that the others are compared with; default: proportional")
    parser.add_argument("--out", type=Path, help="the page; default: report.html in the first folder")
    run(**vars(parser.parse_args()))


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of numbers, such as .5,.5") from None


def _with_config(job: Callable[[DictConfig], Any], *fixed: str) -> None:
    """Runs a function of the configuration under Hydra: overrides, --help, and -m for sweeps."""
    register_resolvers()
    quiet_libraries()
    sys.argv[1:] = with_new_tasks(sys.argv[1:]) + list(fixed)
    refused: list[Exception] = []

    def quietly(cfg: DictConfig) -> Any:
        try:
            return job(cfg)
        except Exception as error:
            if user_message(error) is None or HydraConfig.get().mode == RunMode.MULTIRUN:
                raise  # in a sweep the other runs go on
            refused.append(error)  # Hydra would print all overrides before the message

    hydra.main(version_base="1.3", config_path=str(CONF), config_name="train")(quietly)()
    if refused:
        raise refused[0]
