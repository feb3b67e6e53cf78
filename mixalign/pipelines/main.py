"""The verbs, as the command line calls them."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from mixalign.pipelines.build import CONF, register_resolvers
from mixalign.pipelines.console import quiet_libraries
from mixalign.pipelines.messages import user_message
from mixalign.pipelines.overrides import with_new_tasks

__all__ = ["evaluate", "merge", "plan", "report", "score", "specialists", "train"]


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


def report() -> None:
    from mixalign.pipelines.report import run

    parser = argparse.ArgumentParser("mixalign report", description="Compares runs: a table and a self-contained page.")
    parser.add_argument("runs", type=Path, nargs="+", help="run folders, or folders that hold some")
    parser.add_argument("--baseline", help="mixer that the others are compared with; default: proportional")
    parser.add_argument("--out", type=Path, help="the page; default: report.html in the first folder")
    run(**vars(parser.parse_args()))


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in text.split(","))


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
