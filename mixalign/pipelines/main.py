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

__all__ = ["evaluate", "plan", "report", "score", "specialists", "train"]


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


def report() -> None:
    from mixalign.pipelines.report import run

    parser = argparse.ArgumentParser("mixalign report", description="Compares runs: a table and a self-contained page.")
    parser.add_argument("runs", type=Path, nargs="+", help="run folders, or folders that hold some")
    parser.add_argument("--baseline", help="mixer that the others are compared with; default: proportional")
    parser.add_argument("--out", type=Path, help="the page; default: report.html in the first folder")
    run(**vars(parser.parse_args()))


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
