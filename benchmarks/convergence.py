"""How fast AMA reaches the minimax value of convex problems, against Group DRO and equal weights.

Three problems of five least-squares tasks that disagree, and whose noise differs. The mixers are the package's own; the
model descends as they say, one sample a task and step (AMA-S: one sample a step), and the average of its iterates is
judged, as in the theory: its worst task's mean clipped excess over the specialists, less the least that is possible.
Step sizes are those of the theory for a horizon of T steps, whose gap then falls at least like T^-1/2:

    model       R / (G sqrt(T)), in the ball of radius R
    AMA-R       eta = sqrt(ln K / T) / M;  Group DRO the same, on the loss
    AMA-S       eta = sqrt(ln K / (K T)) / M,  c = min(1, sqrt(K ln K / T))

G and M stand for a gradient and an excess as they typically are. The largest that the ball allows are several times
larger; with those the same slopes would be seen only at far larger T. The last iterate has no such rate.

Prints the fitted slopes of log gap over log T, of which AMA's should be -.45 or steeper, and writes
benchmarks/results/convergence.json and .png. Takes minutes on one core, nearly all of it in the mixers' updates.
"""

import argparse
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf, log, sqrt
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tensors of five numbers

import numpy as np
import torch

from mixalign.mixers.ama_r import AMAR
from mixalign.mixers.ama_s import AMAS
from mixalign.mixers.base import Mixer, MixSignal
from mixalign.mixers.fixed import Temperature
from mixalign.mixers.group_dro import GroupDRO

TASKS, FEATURES, ROWS = 5, 10, 200
RADIUS, GRADIENT, EXCESS = 6.0, 1.5, 1.0  # R, G, M
STEPS = (100, 316, 1000, 3162, 10_000, 31_623)
REPEATS = (20, 20, 20, 12, 8, 6)  # of each number of steps
BAR = -0.45
RESULTS = Path(__file__).parent / "results"
COLOURS = {"ama_r": "#0072B2", "ama_s": "#E69F00", "group_dro": "#CC79A7", "uniform": "#8A8A8A"}
MUTED = "#666666"
NAMES = {"ama_r": "AMA-R", "ama_s": "AMA-S", "group_dro": "Group DRO", "uniform": "uniform"}


@dataclass(frozen=True)
class Problem:
    """K tasks of N rows with H features: `loss = (x . theta - y)^2 / 2`, and every row's loss under its specialist.

    Attributes:
        minimax: least worst excess of any model, up to `uncertainty`, by which a lower bound is below it.
    """

    x_KNH: np.ndarray
    y_KN: np.ndarray
    specialist_KN: np.ndarray
    minimax: float = 0.0
    uncertainty: float = 0.0


def make_problem(seed: int) -> Problem:
    """Rows of lengths 1, 1, .6, 1.5 and .8; targets by a weight vector of each task's own, and noise of .1 to .5."""
    rng = np.random.default_rng(seed)
    length_K11 = np.array([1.0, 1.0, 0.6, 1.5, 0.8])[:, None, None]
    noise_K1 = 0.5 * np.array([0.2, 0.5, 1.0, 0.3, 0.8])[:, None]
    own_KH = rng.normal(size=(TASKS, FEATURES)) / sqrt(FEATURES)
    x_KNH = rng.normal(size=(TASKS, ROWS, FEATURES))
    x_KNH *= length_K11 / np.linalg.norm(x_KNH, axis=-1, keepdims=True)
    y_KN = 3 * np.einsum("knh,kh->kn", x_KNH, own_KH) + noise_K1 * rng.normal(size=(TASKS, ROWS))
    best_KH = np.stack([into_ball(np.linalg.lstsq(x, y, rcond=None)[0]) for x, y in zip(x_KNH, y_KN, strict=True)])
    specialist_KN = (np.einsum("knh,kh->kn", x_KNH, best_KH) - y_KN) ** 2 / 2
    return solved(Problem(x_KNH, y_KN, specialist_KN))


def into_ball(theta_RH: np.ndarray) -> np.ndarray:
    """The nearest vectors of length R or less."""
    return theta_RH * np.minimum(1, RADIUS / np.maximum(np.linalg.norm(theta_RH, axis=-1, keepdims=True), 1e-12))


def task_excess(problem: Problem, theta_H: torch.Tensor) -> torch.Tensor:
    """Mean clipped excess of each task over all of its rows, (K,)."""
    x_KNH, y_KN, specialist_KN = map(torch.from_numpy, (problem.x_KNH, problem.y_KN, problem.specialist_KN))
    return ((x_KNH @ theta_H - y_KN).square() / 2 - specialist_KN).clamp_min(0).mean(1)


def solved(problem: Problem) -> Problem:
    """The problem with its minimax value: the worst task smoothed ever less, and for a weighting a lower bound."""
    theta_H = torch.zeros(FEATURES, dtype=torch.float64)
    for width in (1e-1, 1e-2, 1e-3, 1e-4, 1e-5):

        def smooth(theta_H: torch.Tensor, width: float = width) -> torch.Tensor:
            return width * (task_excess(problem, theta_H) / width).logsumexp(0)

        theta_H = minimised(smooth, theta_H)
    excess_K = task_excess(problem, theta_H)
    alpha_K = (excess_K / 1e-5).softmax(0)
    lower_H = minimised(lambda theta_H: alpha_K @ task_excess(problem, theta_H), theta_H)
    assert float(theta_H.norm()) < RADIUS, "the ball must hold the optimum"
    upper, lower = float(excess_K.max()), float(alpha_K @ task_excess(problem, lower_H))
    return Problem(problem.x_KNH, problem.y_KN, problem.specialist_KN, upper, upper - lower)


def minimised(loss: Callable[[torch.Tensor], torch.Tensor], start_H: torch.Tensor) -> torch.Tensor:
    """Where a convex function is least, by L-BFGS."""
    theta_H = start_H.clone().requires_grad_()
    optimiser = torch.optim.LBFGS(
        [theta_H], max_iter=2000, tolerance_grad=1e-12, tolerance_change=1e-15, line_search_fn="strong_wolfe"
    )

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        value = loss(theta_H)
        value.backward()
        return value

    optimiser.step(closure)
    return theta_H.detach()


def mixers_for(steps: int) -> dict[str, Mixer]:
    """The rules, with the theory's step sizes for so many steps."""
    eta = sqrt(log(TASKS) / steps) / EXCESS
    c = min(1.0, sqrt(TASKS * log(TASKS) / steps))
    return {
        "ama_r": AMAR(eta=eta),
        "ama_s": AMAS(eta=eta / sqrt(TASKS), c=c),
        "group_dro": GroupDRO(eta=eta),
        "uniform": Temperature(inf),
    }


@torch.inference_mode()
def play(problem: Problem, mixer: Mixer, steps: int, repeats: int, seed: int) -> np.ndarray:
    """Gaps of the average iterates of several runs, side by side, (R,); each has its own draws and mixer state."""
    rng = np.random.default_rng(seed)
    mixes, states = map(
        list, zip(*[mixer.init(torch.full((TASKS,), float(ROWS))) for _ in range(repeats)], strict=True)
    )
    alpha_RK = np.stack([mix.alpha_K.numpy() for mix in mixes])
    theta_RH, sum_RH = np.zeros((repeats, FEATURES)), np.zeros((repeats, FEATURES))
    rate = RADIUS / (GRADIENT * sqrt(steps))
    for step in range(steps):
        sum_RH += theta_RH
        drawn_RK = one_each if mixer.composition == "stratified" else one_of
        task_RS, weight_RS = drawn_RK(alpha_RK, rng)
        row_RS = rng.integers(ROWS, size=task_RS.shape)
        x_RSH = problem.x_KNH[task_RS, row_RS]
        error_RS = np.einsum("rsh,rh->rs", x_RSH, theta_RH) - problem.y_KN[task_RS, row_RS]
        loss_RS = error_RS**2 / 2
        excess_RS = np.maximum(loss_RS - problem.specialist_KN[task_RS, row_RS], 0)
        if mixer.descends_on == "excess":
            error_RS = error_RS * (excess_RS > 0)
        theta_RH = into_ball(theta_RH - rate * np.einsum("rs,rsh->rh", weight_RS * error_RS, x_RSH))
        if mixer.needs:
            signals = measured(step, task_RS, loss_RS, excess_RS, alpha_RK)
            for r, signal in enumerate(signals):
                mix, states[r] = mixer.update(signal, states[r])
                alpha_RK[r] = mix.alpha_K.numpy()
    mean_RH = torch.from_numpy(sum_RH / steps)
    return np.array([float(task_excess(problem, theta_H).max()) for theta_H in mean_RH]) - problem.minimax


def one_each(alpha_RK: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A sample of every task, weighted by the mixture: tasks and weights in the loss, (R, S)."""
    return np.broadcast_to(np.arange(TASKS), alpha_RK.shape), alpha_RK


def one_of(alpha_RK: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A sample of a task that the mixture draws, in full: tasks and weights in the loss, (R, S)."""
    task_R1 = (alpha_RK.cumsum(1) < rng.random((len(alpha_RK), 1))).sum(1, keepdims=True)
    return np.minimum(task_R1, TASKS - 1), np.ones_like(task_R1, dtype=float)


def measured(
    step: int, task_RS: np.ndarray, loss_RS: np.ndarray, excess_RS: np.ndarray, alpha_RK: np.ndarray
) -> list[MixSignal]:
    """What the Mixing callback would hand to each run's mixer."""
    by_task_4RK = np.zeros((4, *alpha_RK.shape))
    count_RK, loss_RK, excess_RK, weighted_RK = by_task_4RK
    loss_RK[:], excess_RK[:] = np.nan, np.nan
    run_R1 = np.arange(len(alpha_RK))[:, None]
    count_RK[run_R1, task_RS], loss_RK[run_R1, task_RS], excess_RK[run_R1, task_RS] = 1, loss_RS, excess_RS
    weighted_RK[run_R1, task_RS] = excess_RS / alpha_RK[run_R1, task_RS] / task_RS.shape[1]
    return [MixSignal(step, *vectors) for vectors in torch.from_numpy(by_task_4RK).unbind(1)]


def slope(steps: Sequence[int], gaps: Sequence[float]) -> float:
    """d log gap / d log T, by least squares."""
    return float(np.polyfit(np.log(steps), np.log(gaps), 1)[0])


def slope_error(steps: Sequence[int], gaps: Sequence[float], errors: Sequence[float]) -> float:
    """Standard error of the slope, from those of the gaps."""
    lever = np.log(steps) - np.log(steps).mean()
    return float(np.linalg.norm(lever / (lever @ lever) * np.array(errors) / np.array(gaps)))


def measure(
    problem_seeds: Sequence[int], steps: Sequence[int], repeats: Sequence[int], names: Sequence[str] = tuple(NAMES)
) -> list[dict[str, Any]]:
    """One record a problem: for each mixer the mean gaps, their standard errors and the slope.

    The draws of a run are seeded by the problem's seed and T.
    """
    records = []
    for seed in problem_seeds:
        problem = make_problem(seed)
        record: dict[str, Any] = {"seed": seed, "minimax": problem.minimax, "uncertainty": problem.uncertainty}
        for name in names:
            start = time.perf_counter()
            runs = [play(problem, mixers_for(t)[name], t, n, t + seed) for t, n in zip(steps, repeats, strict=True)]
            means = [float(gaps.mean()) for gaps in runs]
            errors = [float(gaps.std(ddof=1) / sqrt(len(gaps))) for gaps in runs]
            record[name] = {"gap": means, "standard_error": errors, "slope": slope(steps, means)}
            record[name]["slope_error"] = slope_error(steps, means, errors)
            print(f"problem {seed}, {NAMES[name]}: {time.perf_counter() - start:.0f} s", flush=True)
        records.append(record)
    return records


def print_table(records: Sequence[dict[str, Any]], steps: Sequence[int]) -> None:
    """Gaps and slopes of every problem."""
    print(f"\n{'gap to the minimax value at T =':32}" + "".join(f"{t:>10}" for t in steps) + f"{'slope':>8}")
    for record in records:
        print(f"problem {record['seed']}: minimax {record['minimax']:.4f} (+-{record['uncertainty']:.0e})")
        for name, title in NAMES.items():
            found = record[name]
            print(
                f"  {title:30}"
                + "".join(f"{gap:10.4f}" for gap in found["gap"])
                + f"{found['slope']:8.3f} +-{found['slope_error']:.3f}"
            )


def draw(records: Sequence[dict[str, Any]], steps: Sequence[int]) -> Any:
    """One panel a problem: gaps over T, logarithmic, and the slope that the theory promises."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4.4), layout="constrained")
    panels = figure.subplots(1, len(records), sharey=True)
    for ax, record in zip(panels, records, strict=True):
        for name, title in NAMES.items():
            _line(ax, steps, record[name], title, COLOURS[name])
        guide = 0.35 * record["ama_r"]["gap"][0] * (np.array(steps) / steps[0]) ** -0.5
        ax.plot(steps, guide, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        middle = len(steps) // 2 - 1
        place: dict[str, Any] = {"textcoords": "offset points", "ha": "right", "va": "top", "fontsize": 9}
        ax.annotate(r"$T^{-1/2}$", (steps[middle], guide[middle]), (-3, -3), color=MUTED, **place)
        ax.set(xscale="log", yscale="log", xlim=(75, 1.6e6))
        ax.set_xlabel("steps T; at the end of a line its slope", color=MUTED, loc="left")
        ax.set_title(f"problem {record['seed']}", loc="left", fontsize=10, color="#222222")
        ax.set_xticks([1e2, 1e3, 1e4])
        ax.minorticks_off()
        ax.spines[["top", "right"]].set_visible(False)
        ax.spines["bottom"].set_bounds(75, 1e5)
        ax.tick_params(colors=MUTED)
        ax.grid(axis="y", color="#E6E6E6")
    panels[0].set_ylabel("worst task's excess above the minimax value", color=MUTED)
    title = "With AMA the worst task's gap falls as $T^{-1/2}$; with raw losses or equal weights it levels off"
    figure.suptitle(title, x=0.01, ha="left", fontsize=11.5, fontweight="bold", color="#222222")
    return figure


def _line(ax: Any, steps: Sequence[int], found: dict[str, Any], title: str, colour: str) -> None:
    """Mean and standard error of one mixer, with its name and slope at the end."""
    gap, error = np.array(found["gap"]), np.array(found["standard_error"])
    ax.plot(steps, gap, color=colour, marker="o", markersize=4, linewidth=2)
    ax.fill_between(steps, gap - error, gap + error, color=colour, alpha=0.2, linewidth=0)
    label = f"{title}  {found['slope']:.2f}".replace("0.", ".").replace("-", "\N{MINUS SIGN}")
    label = label.replace("AMA\N{MINUS SIGN}", "AMA-")
    ax.annotate(label, (steps[-1], gap[-1]), (8, 0), textcoords="offset points", va="center", color=colour, fontsize=9)


def summary(records: Sequence[dict[str, Any]], steps: Sequence[int], repeats: Sequence[int]) -> dict[str, Any]:
    """What the JSON file holds."""
    slopes = {name: [record[name]["slope"] for record in records] for name in NAMES}
    return {
        "slopes": {name: slopes[name] for name in ("ama_r", "ama_s")},
        "contrast": {name: slopes[name] for name in ("group_dro", "uniform")},
        "bar": BAR,
        "steps": list(steps),
        "repeats": list(repeats),
        "problems": list(records),
    }


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--short", action="store_true", help="T up to 1000 and few repeats: does it work")
    options.add_argument("--json", type=Path, help="writes the figures here as well")
    args = options.parse_args()
    steps, repeats = (STEPS[:3], (4, 4, 4)) if args.short else (STEPS, REPEATS)
    start = time.perf_counter()
    records = measure((0, 1, 2), steps, repeats)
    print_table(records, steps)
    figures = summary(records, steps, repeats)
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n")
    if args.short:
        return
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "convergence.json").write_text(json.dumps(figures, indent=2) + "\n")
    draw(records, steps).savefig(RESULTS / "convergence.png", dpi=150)
    print(
        f"\n{time.perf_counter() - start:.0f} s; figures: {RESULTS / 'convergence.json'}, {RESULTS / 'convergence.png'}"
    )
    if max(map(max, figures["slopes"].values())) > BAR:
        raise SystemExit(f"A slope of AMA is above {BAR}.")


if __name__ == "__main__":
    main()
