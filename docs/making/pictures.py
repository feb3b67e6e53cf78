"""The pictures of docs/methods/, drawn from the rules themselves: `python docs/making/pictures.py`."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch

from mixalign.mixers.ama_r import AMAR
from mixalign.mixers.ama_s import AMAS
from mixalign.mixers.base import MixSignal, Rule
from mixalign.mixers.ideal import Ideal

PICTURES = Path(__file__).resolve().parents[1] / "pictures"
TASKS = {
    "easy": (0.6, 0.08),
    "hard": (0.6, 0.012),
    "learned": (0.05, 0.02),
}  # excess at the start, and how fast it falls
BENEFITS = {"starved": 0.09, "useful": 0.03, "unsure": 0.02, "ample": -0.02, "contradicting": -0.06}
UNSURE, STEPS = "unsure", 400


def main(folder: Path = PICTURES) -> None:
    """Draws them; each says in its metadata what it shows, by which a test finds those that are out of date."""
    folder.mkdir(exist_ok=True)
    rules = {"AMA-R": AMAR(), "AMA-S": AMAS(), "AMA-E": AMAS(eta=0.2, entropy=0.1)}
    for name, figure in {"ama.png": draw_ama(rules), "ideal.png": draw_ideal(Ideal())}.items():
        figure.savefig(folder / name, dpi=80, metadata={"Description": json.dumps(what_it_shows(figure))})


def what_it_shows(figure: plt.Figure) -> list[dict[str, Any]]:
    """Words and some of the numbers of each axes."""
    return [
        {
            "words": [axes.get_title(), axes.get_xlabel(), axes.get_ylabel()],
            "lines": [[round(float(y), 4) for y in line.get_ydata()[::50]] for line in axes.lines],
            "bars": [round(float(bar.get_width()), 4) for bar in axes.patches],
        }
        for axes in figure.axes
    ]


def follow(rule: Rule) -> tuple[np.ndarray, np.ndarray]:
    """Weights and excess of three tasks over the steps, (STEPS, 3) each.

    The excess of a task falls in proportion to its weight. There is no noise: what is measured is the excess itself.
    """
    excess_K, fall_K = torch.tensor([*TASKS.values()], dtype=torch.float64).unbind(1)
    mix, state = rule.init(torch.ones(len(TASKS)))
    weights, seen = [], []
    for step in range(STEPS):
        weight_K = mix.sample_K if mix.loss_K is None else mix.loss_K
        weights.append(weight_K)
        seen.append(excess_K)
        mix, state = rule.update(
            MixSignal(step, torch.ones(len(TASKS)), excess_K=excess_K, excess_iw_K=excess_K), state
        )
        excess_K = excess_K * (1 - fall_K * weight_K)
    return torch.stack(weights).numpy(), torch.stack(seen).numpy()


def draw_ama(rules: Mapping[str, Rule]) -> plt.Figure:
    figure, axes = plt.subplots(2, len(rules), figsize=(9, 4.6), sharex=True, sharey="row", layout="constrained")
    for column, (name, rule) in zip(axes.T, rules.items(), strict=True):
        weights, seen = follow(rule)
        for k, task in enumerate(TASKS):
            column[0].plot(weights[:, k], label=task)
            column[1].plot(seen[:, k])
        column[0].set(title=name, ylim=(0, 1))
        column[1].set(xlabel="step", ylim=(0, None))
    axes[0, 0].set_ylabel("weight of the task")
    axes[1, 0].set_ylabel("excess, nats")
    axes[0, 0].legend(frameon=False)
    return figure


def draw_ideal(rule: Ideal) -> plt.Figure:
    rows_K = torch.full((len(BENEFITS),), 1000.0)
    sure_K = torch.tensor([0.7 if task == UNSURE else 1.0 for task in BENEFITS])
    benefit_K = torch.tensor([*BENEFITS.values()])
    state = rule.init(rows_K)[1]
    signal = MixSignal(0, torch.ones(len(BENEFITS)), benefit_K=benefit_K, confidence_K=sure_K)
    volumes = rule.update(signal, state)[1]["volume_K"]
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 2.8), sharey=True, layout="constrained")
    colours = ["tab:gray" if task == UNSURE else "tab:blue" if b > 0 else "tab:red" for task, b in BENEFITS.items()]
    left.barh([*BENEFITS], benefit_K.numpy(), color=colours)
    left.set(xlabel="benefit, nats for each unit of volume", title="measured on the trained model")
    left.axvline(0, color="black", linewidth=0.8)
    right.barh([*BENEFITS], (volumes - rows_K).numpy(), color=colours)
    right.set(xlabel="rows more or fewer in the next round, of 1,000", title=f"m = {rule.m}")
    right.axvline(0, color="black", linewidth=0.8)
    left.invert_yaxis()
    return figure


if __name__ == "__main__":
    main()
