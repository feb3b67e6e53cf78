"""The claims of AutoMixAlign and IDEAL on real rows with SmolLM2-135M-Instruct: variants of a run over seeds.

Two parts, each with files of its own in conf/paper: `ama` (DPO, five preference tasks) and `ideal` (SFT, five domains).
Variants of a seed share adapters' start, draws' seed and specialists, so that differences are paired; the rows are the
same for all seeds. Two processes work at a time; a command that was stopped goes on where it was. Results go to
benchmarks/results/paper.json, and `python benchmarks/paper_table.py` writes the tables of docs/paper.md from it.

    python benchmarks/paper.py quick                    # short rows, few steps: within two hours on two cores
    python benchmarks/paper.py full                     # 512 tokens, an epoch; on a GPU where there is one
    python benchmarks/paper.py quick --parts ama --variants proportional ama_s --seeds 2
"""

import argparse
import os
import random
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # a process a core

from common import machine, pick_device
from many_runs import Unit, add_arguments, status_of, work, write_figures
from paper_results import gather
from paper_table import RESULTS, all_tables
from real_rows import cut_rows, why_not_at_hand

from mixalign.config.compose import CONF, compose_settings
from mixalign.errors import MixalignError
from mixalign.files import read_json
from mixalign.fingerprint import fingerprint

MERGED = "merge.methods=all"  # stands for as many of MERGES as the form has
MERGES = ("linear", "ties", "dare_linear", "dare_ties")
DOMAINS = ("coding", "instruction", "math", "reasoning", "safety")
IDEAL = ("mixer=ideal", "mixer.stop=false", "mixer.budget=epochs")  # both rounds, whether or not they help
AT_VOLUME = {
    "proportional at IDEAL's volume": "",
    "doremi at IDEAL's volume": "doremi",
    "doge at IDEAL's volume": "doge",
}
RANDOM_START = "ideal m=0.15, random start"
BESIDE = ("ideal m=0.1", "ideal m=0.3", "ideal m=0.15, K-FAC", "ideal m=0.15, identity", RANDOM_START)
VARIANTS: dict[str, dict[str, tuple[str, ...]]] = {
    "ama": {
        "proportional": ("mixer=proportional",),
        "uniform": ("mixer=uniform", MERGED),
        "ama_r": ("mixer=ama_r",),
        "ama_s": ("mixer=ama_s",),
        "ama_e": ("mixer=ama_e",),
        "ama_s mixer.wrap.floor=0.4": ("mixer=ama_s", "mixer.wrap.floor=0.4"),
        "group_dro": ("mixer=group_dro",),
        "doremi": ("mixer=doremi",),
    },
    "ideal": {
        "joint": ("mixer=proportional",),
        "joint, three epochs": ("mixer=proportional", "epochs=3"),
        "uniform": ("mixer=uniform",),
        "ideal m=0.15": IDEAL,
        "ideal m=0.1": (*IDEAL, "mixer.m=0.1"),
        "ideal m=0.3": (*IDEAL, "mixer.m=0.3"),
        "ideal m=0.15, K-FAC": (*IDEAL, "influence=kfac"),
        "ideal m=0.15, identity": (*IDEAL, "influence=identity"),
        RANDOM_START: IDEAL,
        "doremi": ("mixer=doremi",),
        "doge": ("mixer=doge",),
        **dict.fromkeys(AT_VOLUME, ("mixer=fixed", "epochs=null")),
        **{f"only {domain}": ("mixer=fixed", f"mixer.weights={{{domain}: 1}}") for domain in DOMAINS},
    },
}
LONG = {
    "ideal m=0.15": 4.0,
    "ideal": 2.0,
    "doremi": 3.0,
    "doge": 4.0,
    "joint, three epochs": 3.0,
}  # how labels begin -> trainings


@dataclass(frozen=True)
class Size:
    """How large a form is.

    Attributes:
        seeds: by part.
        characters, share, validation, test: of `real_rows.cut_rows`; `share` of the rows to train on by part.
        merges: how many of MERGES.
        rounds: of the variants BESIDE, which are compared after as many rounds of `ideal m=0.15`, which has two.
    """

    seeds: dict[str, int]
    characters: int
    share: dict[str, float]
    validation: int
    test: int
    merges: int
    rounds: int


WHOLE = 10**6  # more than there is
SIZES = {
    "quick": Size({"ama": 3, "ideal": 2}, 500, {"ama": 0.04, "ideal": 0.022}, 8, 32, 2, 1),
    "full": Size({"ama": 5, "ideal": 3}, WHOLE, {"ama": 1.0, "ideal": 1.0}, WHOLE, WHOLE, 4, 2),
}


@dataclass(frozen=True)
class Variants(Unit):
    """All variants of a part on one seed."""

    def overrides(self, label: str) -> list[str]:
        found = super().overrides(label)
        if label not in AT_VOLUME:
            return found
        last = self._result("ideal m=0.15")["rounds"][-1]
        source = AT_VOLUME[label]
        weights = self._result(source)["proxy"]["weights"] if source else None
        text = (
            "{" + ", ".join(f"{task}: {share}" for task, share in weights.items()) + "}" if weights else "proportional"
        )
        return [*found, f"steps={last['steps']}", f"mixer.weights={text}"]

    def _result(self, label: str) -> dict:
        path = self.place(label) / "eval.json"
        if not path.is_file():
            raise MixalignError(f"It follows from the run of `{label}`, which is not finished: {path} is missing.")
        return read_json(path)

    def tidy(self, place: Path) -> None:
        """Removes models; what rounds were, and merges beside a run, are figures."""
        for folder in (place, *place.glob("rounds/*"), *place.parent.glob(f"{place.name}_merge_*")):
            for name in ("checkpoints", "model", "base", "proxy"):
                shutil.rmtree(folder / name, ignore_errors=True)


def main() -> int:
    args = _arguments()
    skipped = {part: reason for part in args.parts if (reason := why_skipped(part, args))}
    for part, reason in skipped.items():
        print(f"{part} is skipped: {reason}")
    size = SIZES[args.form]
    units = {
        part: [unit(part, seed, args, size) for seed in range(args.seeds or size.seeds[part])]
        for part in args.parts
        if part not in skipped
    }
    by_seed = sorted((one for group in units.values() for one in group), key=lambda one: one.seed)
    labels = args.variants or [label for part in args.parts for label in VARIANTS[part]]
    asked = [replace(one, runs={label: one.runs[label] for label in one.runs if label in labels}) for one in by_seed]
    failed = {} if args.gather else work(asked, args.jobs, args.runs)
    made = gather(units, MERGES[: size.merges])
    parts = {part: {"skipped": reason} for part, reason in skipped.items()} | _others(args, units)
    parts |= {part: one | {"overrides": args.overrides} for part, one in made.items()}
    results = {"form": args.form, "machine": machine(pick_device("auto")), "parts": parts}
    print(all_tables(results))
    if units:  # else what the file has stays
        write_figures(args.json, results)
    return status_of(failed)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("form", choices=SIZES, nargs="?", default="quick")
    parser.add_argument("--parts", nargs="+", choices=VARIANTS, default=[*VARIANTS])
    parser.add_argument("--variants", nargs="+", help="default: all of the parts")
    parser.add_argument("--seeds", type=int, help="of each part; default: by the form")
    add_arguments(parser, Path("runs/paper"), RESULTS)
    parser.add_argument("--rows", type=Path, help="folder with `preference` and `sft`; default: as conf/paper says")
    args = parser.parse_args()
    args.runs /= args.form
    known = [label for part in args.parts for label in VARIANTS[part]]
    if unknown := [label for label in args.variants or [] if label not in known]:
        parser.error(f"there is no variant `{unknown[0]}`; known: {', '.join(known)}")
    return args


def _others(args: argparse.Namespace, trained: Mapping[str, Any]) -> dict[str, Any]:
    """Parts that were measured before in the same form, and are not trained now."""
    before = read_json(args.json) if args.json.is_file() else {}
    parts: dict[str, Any] = before["parts"] if before.get("form") == args.form else {}
    return {part: found for part, found in parts.items() if part not in trained}


def why_skipped(part: str, args: argparse.Namespace) -> str:
    """Why a part cannot run here; empty when it can."""
    root = [f"data.root={args.rows / _folder(part)}"] if args.rows else []
    return why_not_at_hand(compose_settings([f"paper={_name(part, args)}", *root, *args.overrides]))


def _name(part: str, args: argparse.Namespace) -> str:
    return f"{part}_quick" if args.form == "quick" else part


def _folder(part: str) -> str:
    return {"ama": "preference", "ideal": "sft"}[part]


def unit(part: str, seed: int, args: argparse.Namespace, size: Size) -> Variants:
    """All variants of a part on one seed, with the rows that they train on."""
    name = _name(part, args)
    rows = {start: _rows(part, args, size, start) for start in (None, seed)[: 1 + (RANDOM_START in VARIANTS[part])]}
    merged = f"merge.methods=[{','.join(MERGES[: size.merges])}]"
    runs = {
        label: [
            *(merged if override == MERGED else override for override in overrides),
            f"data.root={rows[seed if label == RANDOM_START else None]}",
            *([f"mixer.rounds={size.rounds}"] if label in BESIDE else []),
            *args.overrides,
        ]
        for label, overrides in VARIANTS[part].items()
    }
    texts = [path.read_text() for path in sorted((CONF / "paper").glob("*.yaml")) if path.stem in ("_real", part, name)]
    made_by = fingerprint({"setup": texts, "size": repr(replace(size, seeds={})), "overrides": args.overrides})
    common = [f"paper={name}", f"seed={seed}", f"cache_dir={args.runs / 'cache'}", "progress=false"]
    trainings = {label: next((n for start, n in LONG.items() if label.startswith(start)), 1.0) for label in runs}
    trainings |= dict.fromkeys(AT_VOLUME, 1.0)
    return Variants(part, seed, runs, common, args.runs, made_by, f"conf/paper/{name}.yaml", "paper.txt", trainings)


def _rows(part: str, args: argparse.Namespace, size: Size, start: int | None) -> Path:
    """The folder of a part's rows; `start`: the seed of volumes drawn between .3 and 1 of them."""
    source = args.rows / _folder(part) if args.rows else compose_settings([f"paper={_name(part, args)}"]).data.root
    tasks = sorted(path.name for path in Path(str(source)).iterdir() if path.is_dir())
    drawn = {task: 1.0 if start is None else random.Random(f"{start} {task}").uniform(0.3, 1.0) for task in tasks}
    how: dict[str, Any] = {
        "characters": size.characters,
        "shares": {task: size.share[part] * share for task, share in drawn.items()},
        "validation": size.validation,
        "test": size.test,
    }
    name = fingerprint({"source": str(source), **how})[:8]
    return cut_rows(Path(str(source)), args.runs / "rows" / f"{_folder(part)}_{name}", **how).absolute()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except MixalignError as error:
        sys.exit(f"error: {error}")
