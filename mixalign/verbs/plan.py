"""Prints tokens, shares, epochs and a row of every task in advance: [--rows N] [--time] [--json].

--rows N  training rows to show of every task, with what is learned of them
          (default: 1; 0: none)
--time    loads the model and times a few steps of it, which are thrown away
--json    everything as one JSON object, the texts of rows uncut
"""

import json
import logging
import sys
from dataclasses import dataclass
from functools import partial

from mixalign.config.command_line import NO_FOLDER, is_sweep, with_settings
from mixalign.config.first_look import SWEEP
from mixalign.config.settings import RunSettings
from mixalign.errors import MixalignError
from mixalign.jobs.job import prepare
from mixalign.output import heard, say
from mixalign.planning.plain import as_plain
from mixalign.planning.plan import make_plan
from mixalign.planning.show import has_colour, plan_text

__all__ = ["Options", "main", "run", "take_options"]


@dataclass(frozen=True)
class Options:
    """What stands on the command line beside configuration keys.

    Attributes:
        rows: training rows to show of every task.
        time: whether a few steps are timed.
        json: whether standard output gets one JSON object, and nothing else.
    """

    rows: int = 1
    json: bool = False
    time: bool = False


def main() -> None:
    """`mixalign plan` with what stands behind it on the command line."""
    options, sys.argv[1:] = take_options(sys.argv[1:])
    with_settings(partial(run, options=options), *NO_FOLDER, plain=True)


def take_options(arguments: list[str]) -> tuple[Options, list[str]]:
    """The options, and the other arguments, which are Hydra's.

    Raises:
        MixalignError: for a number of rows that is none, and for --json in a sweep.
    """
    rows, flags, others = "1", {"--json": False, "--time": False}, []
    rest = iter(arguments)
    for argument in rest:
        name, equals, value = argument.partition("=")
        if name == "--rows" or (name == "rows" and equals):
            rows = value if equals else next(rest, "")
        elif argument in flags:
            flags[argument] = True
        else:
            others.append(argument)
    if not (rows.isascii() and rows.isdigit()):
        raise MixalignError(f"`--rows` is {rows or 'empty'}, but must be a whole number from 0 on, as in `--rows 3`.")
    if flags["--json"] and SWEEP & set(others):
        raise MixalignError("`--json` gives one object, and a sweep has many plans. Leave out `-m`, or `--json`.")
    return Options(int(rows), flags["--json"], flags["--time"]), others


def run(settings: RunSettings, options: Options = Options()) -> None:
    """Prints the plan: tasks, rows, tokens, shares, epochs, columns, stages, what they take, and warnings."""
    with heard("mixalign", logging.WARNING) as records:
        job = prepare(settings)
    logged = [record.getMessage() for record in records]
    plan = make_plan(job, options.rows, options.time, is_sweep())
    as_json = json.dumps(as_plain(plan, job.counts, logged), indent=2) if options.json else ""
    if why := say(as_json or plan_text(plan, has_colour())):
        raise MixalignError(f"The plan could not be written to standard output: {why}.")
