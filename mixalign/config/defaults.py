"""What a key that is `auto` becomes: values that depend on the model, the adapter, the objective and the data.

A value that somebody sets always wins. What is chosen goes into the run's config.yaml, and the log says why.
"""

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from mixalign.training.average_share import CHOSEN, SHARE, spreading
from mixalign.types import Form

__all__ = ["AUTO", "Situation", "fill"]

AUTO = "auto"
RATES_FROM_RANDOM = {"supervised": 3e-3}  # by the form of rows; of all others 4e-4
RATES = {"supervised": 2e-5}  # of all others 1e-6: they compare, and move away from the reference policy
"""The defaults of TRL's SFTConfig (2e-5) and DPOConfig (1e-6), for all weights of a trained model."""
LORA_FACTOR = 10
"""Adapters learn best at about ten times the rate of full training ("LoRA Without Regret", 2025,
https://thinkingmachines.ai/blog/lora; TRL's page on PEFT says the same: 2e-4 for SFT). Measured here on the generated
tasks (0.1 M weights, DPO, 150 steps, rates a factor of 4 apart): full training is best at 4e-4, rank 16 at 1.6e-3.
Random weights keep the rate of full training."""
WARM_UP = 0.1
"""Share of the steps, for trained models: with DPO as Zephyr does it (arXiv 2310.16944, section 4), and whatever the
number of steps, so that a short training is not all warm-up."""
EVAL_ROWS = 128  # of each task: the standard error of a mean is then a twelfth of the spread of rows


@dataclass(frozen=True)
class Situation:
    """What the values depend on.

    Attributes:
        form: of the rows that the objective reads.
        is_random: whether the model starts from random weights.
        has_lora: whether an adapter is trained.
        recommended: what the data preset recommends: steps, batch_size, specialist_steps, reference_sft_steps.
    """

    form: Form
    is_random: bool
    has_lora: bool
    recommended: Mapping[str, Any]

    def learning_rate(self, form: Form) -> tuple[float, str]:
        """The peak learning rate of AdamW for an objective that reads such rows, and why."""
        rows = f"{form} rows"
        if self.is_random:
            return RATES_FROM_RANDOM.get(form, 4e-4), f"random weights, {rows}"
        if self.has_lora:
            return float(f"{LORA_FACTOR * RATES.get(form, 1e-6):g}"), f"an adapter on a trained model, {rows}"
        return RATES.get(form, 1e-6), f"all weights of a trained model, {rows}"


def fill(plain: Mapping[str, Any], situation: Situation) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The configuration with a value for each key that is `auto`.

    Returns:
        A new plain configuration, in which the rows of a trained model's forward passes stay `auto`, and a line for
        each reason, with the values that were chosen for it.
    """
    filled: dict[str, Any] = deepcopy(dict(plain))
    chosen: dict[str, list[str]] = {}

    def put(key: str, value: Any, why: str = "") -> None:
        node: Any = filled
        *groups, name = key.split(".")
        for group in groups:
            node = node[group]
        if node.get(name) == AUTO:
            node[name] = value
            if why:
                chosen.setdefault(why, []).append(f"{key}={'null' if value is None else value}")

    _fill_lengths(filled, situation, put)
    rate, why = situation.learning_rate(situation.form)
    put("optimizer.lr", rate, why)
    put("specialists.lr", filled["optimizer"]["lr"])
    put("reference.sft_lr", *situation.learning_rate("supervised"))
    kind = "random weights" if situation.is_random else "a trained model"
    put("optimizer.warmup_steps", 10 if situation.is_random else WARM_UP, kind)
    put("objective.beta", 0.5 if situation.is_random else 0.1, kind)
    if situation.is_random:  # else by memory, once the model is there: `mixalign.frozen.batch_sizes`
        put("micro_batch_size", None, kind)
        put("eval_batch_size", 256, kind)
    put("eval_rows", None if situation.is_random else EVAL_ROWS, kind)
    put("engine.threads", 1 if situation.is_random else None, kind)
    _fill_average(filled, put)
    return filled, tuple(f"{', '.join(values)} ({why})" for why, values in chosen.items())


def _fill_average(filled: Mapping[str, Any], put: Callable[..., None]) -> None:
    """The mean of the last weights is a candidate wherever validations choose and a process has the weights whole."""
    if filled.get("export") not in CHOSEN:
        put("average_last", None)  # with export=averaged that is SHARE, too
    elif kind := spreading(filled["trainer"].get("strategy")):
        put("average_last", None, f"{kind} spreads the weights over processes")
    else:
        put("average_last", SHARE)


def _fill_lengths(filled: Mapping[str, Any], situation: Situation, put: Callable[..., None]) -> None:
    """Steps, epochs and batch sizes of all trainings. Steps go before epochs, unless only epochs were set."""
    advice, data = situation.recommended, "the data preset's recommendation"
    for group, steps_key, epochs_key, steps in (
        ("", "steps", "epochs", advice.get("steps")),
        ("specialists.", "steps", "epochs", advice.get("specialist_steps")),
        ("reference.", "sft_steps", "sft_epochs", advice.get("reference_sft_steps") if situation.is_random else 0),
    ):
        node: Any = filled[group.rstrip(".")] if group else filled
        if node.get(epochs_key) not in (AUTO, None):
            steps = None
        put(f"{group}{steps_key}", steps, data if steps else "")
        put(f"{group}{epochs_key}", None if "steps" in advice else 1)
    put("batch_size", advice.get("batch_size", 32), data if "batch_size" in advice else "")
    put("specialists.batch_size", filled.get("batch_size"))
