"""Evaluates a run again, or any model on further rows and tasks: MODEL_OR_RUN [--data F] [--lm-eval TASKS]."""

import argparse
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from mixalign.checks import check_number
from mixalign.config.compose import register_resolvers
from mixalign.config.console import quiet_libraries
from mixalign.config.settings import RunSettings
from mixalign.errors import MixalignError
from mixalign.files import read_json, write_json
from mixalign.frozen.scored import scored
from mixalign.further.harness import require_harness, run_harness
from mixalign.further.measure import device_of, measure, size_of
from mixalign.further.model import Opened, open_model
from mixalign.further.results import further_text, harness_text, keep
from mixalign.further.rows import read_tables
from mixalign.jobs.job import Job, prepare
from mixalign.reporting.show.card import put_further
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

__all__ = ["main", "run", "run_further"]

log = logging.getLogger(__name__)


TEXT = """Evaluates the model of a run folder again, on its own rows; with --data or
--lm-eval any model (a run, finished or not; a folder of a model or an adapter;
an id of the hub) on rows that it never saw, and on tasks of
lm-evaluation-harness. Of a finished run the numbers go into its eval.json."""


def main() -> None:
    """`mixalign evaluate` with what stands behind it on the command line."""
    quiet_libraries()
    style = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("mixalign evaluate", description=TEXT, formatter_class=style)
    add = parser.add_argument
    add("model", metavar="MODEL_OR_RUN", help="a run folder; with --data or --lm-eval any model")
    own, other = "of a run's own rows", "of further rows and tasks"
    add("--split", choices=["train", "validation", "test"], help=f"{own}; default: test")
    add("--generate", type=int, metavar="N", help=f"{own}: prompts a task to answer; default: as the run has it")
    add("--data", type=Path, metavar="F", help="a file of rows, or a folder with a file a task")
    add("--task", metavar="NAME", help="read --data as this task's rows were; default: by the files' names")
    add("--out", type=Path, metavar="F.json", help=f"{other}: a file that gets the results")
    add("--lm-eval", metavar="TASKS", help="tasks of lm-evaluation-harness, by name: a,b")
    add("--lm-eval-path", type=Path, metavar="DIR", help="a folder with task files of your own")
    add("--limit", type=int, metavar="N", help="rows of a task of lm-evaluation-harness, at most")
    add("--batch-size", type=int, metavar="N", help=f"{other}: rows at a time; default: as the run has it, else 8")
    add("--max-length", type=int, metavar="N", help="tokens of a row of --data; default: as the run has it, else 1024")
    given = vars(parser.parse_args())
    model, split, generate = (given.pop(key) for key in ("model", "split", "generate"))
    if given["data"] is None and given["lm_eval"] is None:
        _refuse(given, "belongs to --data or --lm-eval. Add one of them, or leave it out.")
        run(Path(model), split or "test", generate)
        return
    _refuse({"split": split, "generate": generate}, f"is {own}. Leave it out beside --data and --lm-eval.")
    if given["data"] is None:
        _refuse({"task": given["task"]}, "belongs to --data. Add it, or leave it out.")
    tasks = tuple(filter(None, (given.pop("lm_eval") or "").split(",")))
    run_further(model, lm_eval=tasks, **given)


def _refuse(given: Mapping[str, Any], why: str) -> None:
    for name, value in given.items():
        if value is not None:
            raise MixalignError(f"--{name.replace('_', '-')} {why}")


def run_further(
    model: str,
    *,
    data: Path | None = None,
    task: str | None = None,
    out: Path | None = None,
    lm_eval: Sequence[str] = (),
    lm_eval_path: Path | None = None,
    limit: int | None = None,
    batch_size: int | None = None,
    max_length: int | None = None,
) -> dict[str, Any]:
    """Measures any model on rows that it never saw, and on tasks of lm-evaluation-harness.

    Prints tables, and writes the results to `out`; of a finished run also into its eval.json, as `further` and
    `lm_eval`, and into its model card.

    Args:
        model: a run, a folder of a model or an adapter, or an id of the hub.
        data: a file of rows, or a folder of them; `task`: one of the run, as whose rows they are read.
        lm_eval: names of tasks, and `lm_eval_path` a folder that has some.
        limit: rows of a task of the harness, at most.

    Returns:
        What `out` gets.

    Raises:
        MixalignError: for a model, rows or tasks that cannot be had.
    """
    register_resolvers()
    data, out, lm_eval_path = (path and path.expanduser().absolute() for path in (data, out, lm_eval_path))
    _check_asked(lm_eval, limit, batch_size, max_length, out)
    with _where(model) as name:
        opened = open_model(name)
        result: dict[str, Any] = {"model": opened.what}
        live = None
        if data is not None:
            tables = read_tables(data, opened, max_length, task)
            live = opened.build()
            result |= measure(live, opened, tables, batch_size)
            say_result(further_text(result, data.name))
            _keep(opened, {data.name: result}, None, out, result)
        if lm_eval:
            live = live or opened.build().to(device_of(opened))
            how: dict[str, Any] = {"include": lm_eval_path, "limit": limit, "batch_size": batch_size or size_of(opened)}
            found = run_harness(live, opened.tokenizer, lm_eval, chat=opened.chat, **how)
            say_result(harness_text(found, opened.what))
            result |= {"lm_eval": found}
            _keep(opened, {}, found, out, result)
    return result


def _check_asked(
    lm_eval: Sequence[str], limit: int | None, batch_size: int | None, max_length: int | None, out: Path | None
) -> None:
    for name, value in (("--limit", limit), ("--batch-size", batch_size), ("--max-length", max_length)):
        check_number(name, value, 1, whole=True, null=True)
    if lm_eval:
        require_harness()
    if out is not None and out.is_dir():
        raise MixalignError(f"--out: {out} is a folder. Give a file, such as {out / 'results.json'}.")


@contextmanager
def _where(model: str) -> Iterator[str]:
    """Where relative paths of a run's configuration begin; gives the absolute path, or the id as it is."""
    place = Path(model).expanduser()
    if not place.exists():
        yield model
        return
    place = place.resolve()
    with where_it_began(place.parent if place.name == "model" else place):
        yield str(place)


def _keep(
    opened: Opened,
    further: Mapping[str, Any],
    harness: Mapping[str, Any] | None,
    out: Path | None,
    result: Mapping[str, Any],
) -> None:
    if out is not None:
        write_json(out, result)
        log.info("results: %s", out)
    if opened.run is not None and opened.finished:
        keep(opened.run, further, harness)
        put_further(opened.run)
    elif opened.run is not None and out is None:
        log.warning("The run is not finished and has no eval.json, so these results are only shown: --out keeps them.")


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
    _check_run(folder)
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


def _check_run(folder: Path) -> None:
    """Refuses what has no rows of its own: the folder of a model, a sweep, an id of the hub."""
    if (folder / "config.yaml").is_file():
        return
    if folder.name == "model" and (folder.parent / "config.yaml").is_file():
        cure = f"Give that of its run: {folder.parent}"
    elif runs := sorted(path.parent.name for path in folder.glob("*/config.yaml")):
        cure = f"Give one of the runs in it: {', '.join(runs)}"
    else:
        cure = "Any other model is measured on rows that you name"
    raise MixalignError(f"{folder} is no run folder: it has no config.yaml. {cure}; --data F is for further rows.")


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
