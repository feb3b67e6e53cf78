"""IDEAL's influence: seconds of K-FAC and EK-FAC beside kronfluence's, and beside the training of the same rows.

Four domains and one target table. Variants: `ekfac` and `kfac` with labels drawn from the model, `kfac_empirical`, and
`train`, one packed epoch over the domains' rows. With `--kronfluence PYTHON`, an interpreter that has kronfluence 1.0.1
(it must not be installed beside mixalign: `pip install --no-deps kronfluence einconv einops opt-einsum` in an
environment of its own, with torch, transformers, accelerate and datasets), also `kron_ekfac` and `kron_kfac`, on rows
of SFT, sorted by length. Its gradients of samples are those of one sequence, so pairs are measured on our side alone.

Both are first compared on the Fisher of the data's own labels, and with the input factor that kronfluence has:
mixalign weighs positions in it by their output gradients (see `mixalign.influence.factors.Moments`).
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from common import (
    ALLOCATOR,
    SIZES,
    make_rows,
    parser,
    peak_memory,
    pick_device,
    print_table,
    run_benchmark,
    spread,
    write_json,
)

SIDES = {"dpo": ("chosen", "rejected"), "sft": ("chosen",)}
DOMAINS, BATCH, TRAINED = 4, 16, 8  # rows of a batch that is read, and of one that is trained
TOLERANCE = 1e-4  # of the norm of the scores of all domains
OURS = ("ekfac", "kfac", "kfac_empirical")
THEIRS = ("kron_ekfac", "kron_kfac")
PHASES = {"means": "gradients, factors", "_spectrum": "spectrum", "products": "products", "bases": "eigenvectors"}


def main() -> None:
    options = parser(__doc__, steps=256)
    options.add_argument("--kind", choices=tuple(SIDES), default="sft")
    options.add_argument("--kronfluence", metavar="PYTHON", help="interpreter of the environment that has it")
    options = options.parse_args()
    if options.short and not options.worker:
        options.repeats = 1
    compared = bool(options.kronfluence) and options.kind == "sft"
    variants = {name: {} for name in (*OURS, "train")} | {name: ALLOCATOR for name in THEIRS if compared}
    pythons = {name: options.kronfluence for name in (*THEIRS, "kron_check")}
    checks = ["check", "kron_check"] if compared else []
    found = run_benchmark(__file__, options, variants, _work, [options.size], checks, pythons)
    if found is not None:
        _report(found, options)


def _report(found: dict[str, list[dict[str, Any]]], options: argparse.Namespace) -> None:
    difference = {}
    if "check" in found:
        ours, theirs = found.pop("check")[0]["scores"], found.pop("kron_check")[0]["scores"]
        difference = {name: _distance(ours[name], theirs[name]) for name in ours}
        print("Scores of the domains, empirical Fisher, float32: difference of the two libraries, of their norm:")
        print(", ".join(f"{name} {value:.1e}" for name, value in difference.items()) + f" (allowed {TOLERANCE:g})")
        if max(difference.values()) > TOLERANCE:
            raise SystemExit(f"They differ: {ours} and {theirs}. The comparison would mean nothing.")
    trained = spread(found["train"], "s_a_row")[0]
    body = []
    for variant, records in found.items():
        middle, least, most = spread(records, "seconds")
        times = spread(records, "s_a_row")[0] / trained
        body.append([variant, middle, f"{least:.3g}-{most:.3g}", times, spread(records, "peak_mib")[0]])
    print_table(["variant", pick_unit(options), "range", "x train, a row", "peak MiB"], body)
    for variant in OURS:
        phases = {text: spread(found[variant], name)[0] for name, text in PHASES.items() if name in found[variant][0]}
        print(f"{variant}: " + ", ".join(f"{text} {seconds:.2f}" for text, seconds in phases.items()))
    ratios = {
        f"{name}_vs_kronfluence": spread(found[f"kron_{name}"], "seconds")[0] / spread(found[name], "seconds")[0]
        for name in ("ekfac", "kfac")
        if f"kron_{name}" in found
    }
    ratios |= {f"{name}_a_row_vs_training": spread(found[name], "s_a_row")[0] / trained for name in OURS}
    ratios |= {"share_of_a_round": _share_of_a_round(ratios["ekfac_a_row_vs_training"])}
    print("ratios: " + ", ".join(f"{name} {ratio:.3g}" for name, ratio in ratios.items()))
    runs = [record for records in found.values() for record in records]
    name = f"influence_{options.kind}_{options.size}"
    write_json(
        options.json,
        name,
        pick_device(options.device),
        ratios,
        difference=difference,
        precision=_precision(options),
        runs=runs,
    )


def _distance(a: Sequence[float], b: Sequence[float]) -> float:
    """Between two lists of scores, each scaled to norm 1: counts of positions are a factor of all of kronfluence's."""
    import numpy as np

    a_K, b_K = (np.array(x) / np.linalg.norm(x) for x in (a, b))
    return float(np.linalg.norm(a_K - b_K))


def _share_of_a_round(times: float, tasks: int = 5, rows: int = 2000, read: int = 256) -> float:
    """What EK-FAC takes of an epoch over five tasks of 2,000 rows, at 256 rows of each task and target table."""
    return 2 * tasks * read * times / (tasks * rows)


def pick_unit(options: argparse.Namespace) -> str:
    return "s" if pick_device(options.device) == "cuda" else "CPU-s"


def _precision(options: argparse.Namespace) -> str:
    return "32-true" if options.fp32 else "bf16-mixed"


def _work(variant: str, options: argparse.Namespace) -> dict[str, Any]:
    import torch

    torch.set_num_threads(options.threads)
    options.device = pick_device(options.device)
    number = 16 if variant.endswith("check") else 64 if options.short else options.steps
    rows = make_rows(number + number // 4, SIZES[options.size]["vocab_size"])
    domains, targets = rows[:number], rows[number:]
    path = str(options.models / options.size)
    if variant == "kron_check":
        return {"scores": {name: _kronfluence(path, domains, targets, name, "32-true", True)[0] for name in METHODS}}
    if variant in THEIRS:
        name = variant.removeprefix("kron_")
        seconds = _kronfluence(path, domains, targets, name, _precision(options), False)[1]
    elif variant == "check":
        return {"scores": _plainly(path, domains, targets)}
    elif variant == "train":
        seconds = {"seconds": _train(path, domains, options)}
    else:
        seconds = _ours(path, domains, targets, variant, options)[1]
    a_row = seconds["seconds"] / (len(domains) if variant == "train" else len(rows))
    return seconds | {"s_a_row": a_row} | peak_memory(options.device)


METHODS = ("ekfac", "kfac")


def _ours(
    path: str,
    domains: list,
    targets: list,
    variant: str,
    options: argparse.Namespace,
    read: tuple[int, Any] | None = None,
) -> tuple[list[float], dict[str, float]]:
    from with_mixalign import make_tasks

    from mixalign.frozen.score import score_rows
    from mixalign.influence.benefit import measure
    from mixalign.influence.settings import Influence, Reading
    from mixalign.models.load import Pretrained
    from mixalign.objectives.dpo import DPO
    from mixalign.objectives.sft import SFT
    from mixalign.training.engine import Engine, choose_layout, prepare_process

    engine, sides = Engine(layout="packed", threads=options.threads), SIDES[options.kind]
    prepare_process(engine)
    model = Pretrained(path).build().to(options.device)
    tables = [*make_tasks(domains, DOMAINS, sides, DOMAINS), *make_tasks(targets, 1, sides, 1)]
    layout = choose_layout(engine, model, tables)
    if options.kind == "dpo":
        for table in tables:
            table.attach("reference_logp", score_rows(model, table, {}, BATCH, layout).align(table))
    objective = (DPO() if options.kind == "dpo" else SFT()).for_tasks([{}] * (DOMAINS + 1))
    curvature, _, fisher = variant.partition("_")
    influence = Influence(curvature, fisher or "true", samples=len(domains))
    now = clock_of(options.device)
    phases = _timed(now)
    began = now()
    reading = Reading(*(read or (BATCH, layout)), _precision(options))
    found = measure(model, objective, tables[:DOMAINS], tables[DOMAINS:], influence, reading)
    seconds = now() - began
    return found.product_K.tolist(), {"seconds": seconds} | phases


def clock_of(device: str) -> Callable[[], float]:
    """CPU seconds of this process; by the clock where a GPU works, once it has done what it was told."""

    def by_the_clock() -> float:
        import torch

        torch.cuda.synchronize()
        return time.perf_counter()

    return by_the_clock if device == "cuda" else time.process_time


def _timed(now: Callable[[], float]) -> dict[str, float]:
    """Seconds of each phase, filled in while influence is measured."""
    from mixalign.influence.factors import Moments
    from mixalign.influence.passes import Passes

    spent: dict[str, float] = {}

    def watch(kind: Any, name: str) -> None:
        run: Callable[..., Any] = getattr(kind, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            began = now()
            out = run(*args, **kwargs)
            spent[name] = now() - began
            return out

        setattr(kind, name, timed)

    for kind, name in ((Passes, "means"), (Passes, "_spectrum"), (Passes, "products"), (Moments, "bases")):
        watch(kind, name)
    return spent


def _plainly(path: str, domains: list, targets: list) -> dict[str, list[float]]:
    """Our scores with kronfluence's input factor: the plain mean of `x x'` over positions."""
    from mixalign.data.batches.collate import collate
    from mixalign.influence.factors import Moments, _eigh
    from mixalign.influence.gemm import add_square
    from mixalign.influence.solve import Basis

    def at(self: Any, weight: float) -> Any:
        def each(name: str, x_PI: Any, delta_PO: Any) -> None:
            add_square(self.input_II[name], x_PI, weight)
            add_square(self.output_OO[name], delta_PO, weight)

        return each

    def basis(self: Any, name: str, reduce: Any) -> Basis:
        input_I, vector_II = _eigh(self.input_II[name])
        output_O, vector_OO = _eigh(self.output_OO[name])
        return Basis(vector_II, vector_OO, input_I, output_O)

    Moments.at, Moments._basis = at, basis  # type: ignore[method-assign]
    options = argparse.Namespace(kind="sft", threads=1, fp32=True, device="cpu")
    alone = (1, collate)  # a row at a time has no padding, which would count in the mean
    return {name: _ours(path, domains, targets, f"{name}_empirical", options, alone)[0] for name in METHODS}


def _train(path: str, rows: list, options: argparse.Namespace) -> float:
    from common import StepClock
    from with_mixalign import make_tasks, prepare, train

    from mixalign.objectives.dpo import DPO
    from mixalign.objectives.sft import SFT

    sides, steps = SIDES[options.kind], len(rows) // TRAINED
    objective = DPO() if options.kind == "dpo" else SFT()
    setup = prepare(
        path,
        make_tasks(rows, DOMAINS, sides, TRAINED),
        objective,
        batch_size=TRAINED,
        steps=steps,
        device=options.device,
        fp32=options.fp32,
        threads=options.threads,
        compiled=False,  # as a round of few steps is
    )
    clock = StepClock(1, options.device)
    train(setup, clock)
    ticks = clock.wall if options.device == "cuda" else clock.cpu
    first, last = ticks[0], ticks[-1]
    return (last - first) * steps / (steps - 1)  # the first step, which makes kernels, as long as another


def _kronfluence(
    path: str, domains: list, targets: list, strategy: str, precision: str, empirical: bool
) -> tuple[list[float], dict[str, float]]:
    from with_kronfluence import scores

    return scores(path, domains, targets, strategy, precision, empirical, DOMAINS, BATCH)


if __name__ == "__main__":
    sys.exit(main())
