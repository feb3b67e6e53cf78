"""Finds the best fixed weights: RUNS... [--target worst]; --method mixmin: from the specialists."""

import argparse
import sys
from functools import partial
from pathlib import Path

from mixalign.config.command_line import NO_FOLDER, with_settings
from mixalign.config.console import quiet_libraries
from mixalign.errors import MixalignError
from mixalign.fitting.from_runs import fit_from_runs
from mixalign.fitting.from_specialists import fit_from_specialists
from mixalign.fitting.regmix import RegMixSettings
from mixalign.fitting.regression import REGRESSIONS

__all__ = ["main"]

USAGE = """%(prog)s RUNS... [--target T] [--regression R] [--out F]
       %(prog)s --method mixmin KEY=VALUE... [--out F]"""
TEXT = r"""Finds fixed weights of the tasks, prints them, and writes them to a file.

regmix (arXiv 2407.01492) fits the validation loss to the mixtures of many
short runs, and takes the mixture with the lowest prediction:
  mixalign train -m mixer=random_mixture 'mixer.draw=range(0,32)' \
      specialists.train=never steps=100 run_dir=runs/tried
  mixalign fit-mixture runs/tried --target worst

mixmin (arXiv 2502.10510) takes the weights with which the specialists'
probabilities, averaged, fit the rows of data.target best: by default every
task's validation rows. It trains the specialists that are missing:
  mixalign fit-mixture --method mixmin data=domains objective=sft"""


def main() -> None:
    """`mixalign fit-mixture` with what stands behind it on the command line."""
    quiet_libraries()
    options = {key: value for key, value in vars(_parser().parse_intermixed_args()).items() if value is not None}
    inputs, method, out = options.pop("inputs"), options.pop("method"), options.pop("out", None)
    if method == "regmix":
        fit_from_runs(inputs, RegMixSettings(**options), out)
        return
    if options:
        raise MixalignError(f"--{next(iter(options))} is of regmix; mixmin fits to the rows of `data.target`.")
    sys.argv[1:] = inputs
    with_settings(lambda settings: fit_from_specialists(settings, out and str(out)), *NO_FOLDER)


def _parser() -> argparse.ArgumentParser:
    """Options that are not given are None: those of regmix have their defaults in `RegMixSettings`."""
    style = partial(argparse.RawDescriptionHelpFormatter, max_help_position=16)
    parser = argparse.ArgumentParser("mixalign fit-mixture", usage=USAGE, description=TEXT, formatter_class=style)
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
    add("--regression", metavar="R", choices=list(REGRESSIONS), help=regression)
    add("--candidates", metavar="N", type=int, help="mixtures whose loss is predicted; default: 100000")
    add("--top", metavar="N", type=int, help="how many of them, the lowest, are averaged; default: 128")
    add("--seed", metavar="N", type=int, help="of the candidates; default: 0")
    return parser
