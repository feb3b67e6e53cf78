"""What a change of volumes should do to the target loss by the benefits that were measured, beside what it did.

Benefits are `-dQ / d beta` of a relative change beta of a task's volume, in nats; changes are of losses, so that what
helps is negative.
"""

from collections.abc import Mapping
from math import inf, isfinite
from typing import Any

import numpy as np

from mixalign.errors import MixalignError

__all__ = ["actual_change", "broken_promise", "no_loss", "predicted_change", "without_impossible"]

Entry = Mapping[str, Any]
"""What `eval.json` holds of a round: `volumes` by task, `target_loss` by target table, `mean_target_loss`; where
benefits were measured, `benefit_by_target`, by target table and task, which scores without curvature do not have."""


def no_loss(entry: Entry) -> str:
    """Why a round is the last: its target loss is not finite; empty where it is.

    Raises:
        MixalignError: for round 0, behind which there is nothing.
    """
    if isfinite(entry["mean_target_loss"]):
        return ""
    bad = [f"`{table}`" for table, loss in entry["target_loss"].items() if not isfinite(loss)]
    what = f"the loss on target rows of {', '.join(bad)} is not finite after round {entry['round']}"
    if entry["round"] == 0:
        raise MixalignError(
            f"{what[0].upper()}{what[1:]}, so that nothing can be measured of it. Look for rows there that are far "
            "from the rest, lower `optimizer.lr`, or name other rows: `data.target`."
        )
    return what


def predicted_change(entry: Entry, volumes: Mapping[str, int]) -> dict[str, Any]:
    """`predicted_change` of each target table's loss and `mean_predicted_change`, nats, for the next round's volumes.

    Empty where the benefits are no nats, and for rounds of older versions.
    """
    if not entry.get("benefit_by_target"):
        return {}
    beta = {task: volumes[task] / before - 1 for task, before in entry["volumes"].items()}
    change = {
        table: -sum(benefit[task] * beta[task] for task in beta)
        for table, benefit in entry["benefit_by_target"].items()
    }
    return {"predicted_change": change, "mean_predicted_change": float(np.mean(list(change.values())))}


def actual_change(before: Entry, now: Entry) -> dict[str, Any]:
    """`change` of each target table's loss since the round before, and `mean_change`, nats."""
    change = {table: loss - before["target_loss"][table] for table, loss in now["target_loss"].items()}
    return {"change": change, "mean_change": now["mean_target_loss"] - before["mean_target_loss"]}


def without_impossible(entry: Entry, m: float) -> dict[str, float]:
    """The confidence in each sign; a coin's where `broken_promise` would refuse a volume that is changed by m."""
    doubtful = _impossible(entry, m)
    return {task: 0.5 if task in doubtful else value for task, value in entry["confidence"].items()}


def broken_promise(entry: Entry, volumes: Mapping[str, int], m: float, damping: float) -> str:
    """Why a change of volumes is refused: a benefit is not finite, or moves the target loss by more than the loss is.

    Args:
        entry: of the round whose benefits they are.
        volumes: that were to come next.
        m: largest relative change of a volume.
        damping: that was measured with.

    Returns:
        A sentence that says what to do; empty when there is nothing against it.
    """
    loss, impossible = entry["mean_target_loss"], _impossible(entry, m)
    if unknown := [f"`{task}`" for task, change in impossible.items() if not isfinite(change)]:
        return (
            f"the benefit of {', '.join(unknown)} is not finite, so the volumes stay. Raise `influence.damping`, or "
            "measure in `trainer.precision=32-true`"
        )
    total = predicted_change(entry, volumes).get("mean_predicted_change", 0.0)
    if impossible:
        worst = max(impossible, key=lambda task: impossible[task])
        what = f"{m:.0%} more or less of `{worst}` would move the target loss by {impossible[worst]:.3g} nats"
    elif abs(total) > loss:
        what = f"the change of volumes would move the target loss by {total:+.3g} nats"
    else:
        return ""
    excess = max([abs(total), *impossible.values()]) / loss
    return (
        f"by the benefits {what}, and it is {loss:.3g}, so they are not believed and the volumes stay. Raise "
        f"`influence.damping` to {damping * 10 ** np.ceil(np.log10(excess)):g} or more, read more rows "
        "(`influence.samples`), take `influence=identity`, or train the model for longer"
    )


def _impossible(entry: Entry, m: float) -> dict[str, float]:
    """Tasks whose volume, changed by m, would move the mean target loss by more than itself, and by how much.

    A benefit that is not finite moves it by infinity, also where benefits are no nats.
    """
    tables = list(entry.get("benefit_by_target", {}).values())
    mean = {task: m * abs(float(np.mean([table[task] for table in tables]))) for task in (tables or [{}])[0]}
    unknown = {task: inf for task, value in entry.get("benefit", {}).items() if not isfinite(value)}
    return {task: change for task, change in mean.items() if not change <= entry["mean_target_loss"]} | unknown
