"""Evaluates the model of a run folder again: RUN [--split test] [--generate N]."""

import argparse
import logging
from dataclasses import replace
from functools import partial
from pathlib import Path

from mixalign.checks import check_number
from mixalign.config.compose import register_resolvers
from mixalign.config.console import quiet_libraries
from mixalign.config.settings import RunSettings
from mixalign.errors import MixalignError
from mixalign.files import read_json
from mixalign.frozen.scored import scored
from mixalign.jobs.job import Job, prepare
from mixalign.runs.claim import still_there
from mixalign.runs.evaluate import evaluate_folder
from mixalign.runs.folder import read_settings
from mixalign.runs.generations import Generations, with_generations
from mixalign.runs.identity import begun_specialists, begun_tasks, check_measured
from mixalign.runs.portable import where_it_began
from mixalign.runs.start import start_losses, with_start
from mixalign.runs.summary import eval_table, write_results
from mixalign.terminal import say_result
from mixalign.together.agree import is_first, wait
from mixalign.together.hold import held
from mixalign.together.start import on_all_ranks

__all__ = ["main", "run"]

log = logging.getLogger(__name__)


def main() -> None:
    """`mixalign evaluate` with what stands behind it on the command line."""
    quiet_libraries()
    parser = argparse.ArgumentParser("mixalign evaluate", description="Evaluates the model of a run folder again.")
    parser.add_argument("run", type=Path, help="a run folder")
    parser.add_argument("--split", default="test", choices=["train", "validation", "test"])
    parser.add_argument(
        "--generate", type=int, metavar="N", help="prompts a task to answer; default: as the run has it"
    )
    given = parser.parse_args()
    run(given.run, given.split, given.generate)


def run(folder: Path, split: str, generate: int | None = None) -> None:
    """Evaluates the saved model, prints the table and writes `eval_<split>.json` beside `eval.json`.

    As many processes do it as trained the run, in the same precision: the numbers are those of its eval.json.

    Args:
        generate: prompts a task whose answers are generated, in place of the run's `eval.generate`; they go to
            `generations_<split>.jsonl`.

    Raises:
        MixalignError: when the folder is no run, has no model or no such split, or when the rows or the base model of
            the run are others now.
    """
    register_resolvers()
    with where_it_began(folder) as run_dir:
        settings = read_settings(run_dir)
        if not (run_dir / "model").is_dir():
            raise MixalignError(
                f"{folder} has no model to evaluate: the run did not finish. Go on with it: the same command with "
                f"`run_dir={folder}`.{still_there(run_dir)}"
            )
        if generate is not None:
            check_number("--generate", generate, 0, whole=True)
            settings = replace(settings, eval=replace(settings.eval, generate=generate))
        _evaluate(settings, run_dir, split)


def _warn_of_lacking(job: Job, folder: Path) -> None:
    """Says of a run with specialists that they are not where its settings say, as after a move without the cache."""
    has = all("specialist_loss" in table.columns for table in job.data["validation"])
    if begun_specialists(folder) and not has:
        place = job.settings.specialists.dir or job.cache / "specialists"
        log.warning(
            "Excess is left out: the run has specialists, but not all of them are in %s. Restore that folder, or name "
            "the place as `cache_dir` in %s.", place, folder / "config.yaml",
        )  # fmt: skip


@on_all_ranks
def _evaluate(settings: RunSettings, folder: Path, split: str) -> None:
    with held(folder):
        job = prepare(settings, begun_tasks(folder))
        if split not in job.data:
            raise MixalignError(f"The tasks of {folder} have no {split} split. They have: {', '.join(job.data)}.")
        job, reference = scored(job, check=partial(check_measured, folder), finished=folder)
        _warn_of_lacking(job, folder)
        start = start_losses(job, reference, split)  # before the columns of the reference may go
        result = with_start(evaluate_folder(job, reference, folder / "model", split), start)
        asked = Generations.of(job, reference, split)
        if is_first():
            before = read_json(folder / "eval.json") if (folder / "eval.json").is_file() else {}
            result |= {key: before[key] for key in ("steps", "exported") if key in before}
            write_results(folder / f"eval_{split}.json", result)
        wait()
        result = with_generations(asked, reference, folder, f"eval_{split}.json")
        if is_first():
            say_result(eval_table(result))
