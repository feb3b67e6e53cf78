"""Merges models, or the specialists of a run: MODELS... --out F [--method ties]; --specialists RUN."""

import argparse
from pathlib import Path

from mixalign.config.console import quiet_libraries
from mixalign.merging.methods import METHODS, Merge
from mixalign.merging.runs import run
from mixalign.merging.search import Search
from mixalign.reporting.show.card import leave_card

__all__ = ["main"]


def main() -> None:
    """`mixalign merge` with what stands behind it on the command line."""
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
    specialists = places["specialists"]
    folder = run(places.pop("models"), Merge(**given), **places, settings=search)
    if specialists:  # it is a run
        leave_card(folder)


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of numbers, such as .5,.5") from None
