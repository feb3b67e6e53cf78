"""Whether the excess of several runs is counted over one set of specialists, and what differs where it is not.

Excess over a specialist that learned nothing is low for every model, so it compares over one set only. Runs of
different seeds may have their own: they are compared within each seed.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mixalign.fingerprint import fingerprint
from mixalign.reporting.read.runs import Run

__all__ = ["different_specialists", "losses_differ"]

NAMES = {  # of entries of a recipe -> how a reader knows them
    "start": "the reference policy",
    "rows": "the training rows",
    "precision": "trainer.precision",
    "best_on": "specialists.export",
    **{key: f"specialists.{key}" for key in ("seed", "folds", "export", "patience")},
}
GROUPS = ("specialists", "optimizer", "lora", "objective", "model", "reference", "data")  # that decide specialists
OTHERS = (  # are in these groups, and decide nothing of a specialist
    *("specialists.train", "specialists.dir", "specialists.of", "optimizer.lr"),
    *("data.workers", "data.cache_tokens", "reference.mode"),
)
SHOWN = 4  # values of a setting
LOSSES = ("the reference policy", "objective.")  # what losses are measured by as well


def different_specialists(runs: Sequence[Run]) -> list[str]:
    """What differs between the specialists of runs of one seed, as a reader knows it; empty when nothing does.

    Runs of older versions do not say which specialists they had: the settings that decide them are compared.
    """
    found: dict[str, None] = {}
    for seed in dict.fromkeys(run.seed for run in runs):
        group = [run for run in runs if run.seed == seed and _has_excess(run)]
        found |= dict.fromkeys(_differing(group))
    return list(found)


def losses_differ(differing: Sequence[str]) -> bool:
    """Whether losses do not compare either, where these things differ."""
    return any(name.startswith(LOSSES) for name in differing)


def _has_excess(run: Run) -> bool:
    return "excess" in (run.eval.get("worst") or {}) or any(
        "excess" in row for row in (run.eval.get("tasks") or {}).values()
    )


def _differing(group: Sequence[Run]) -> list[str]:
    over = [run.eval.get("excess_over") for run in group]
    if not all(isinstance(one, dict) for one in over):
        return _named([_deciding(run.settings) for run in group])
    if len({fingerprint({"over": one}) for one in over}) < 2:
        return []
    shared = [task for task in group[0].specialists if all(task in run.specialists for run in group)]
    by_task = (_named([dict(_flat(run.specialists[task])) for run in group]) for task in shared)
    return list(dict.fromkeys(name for names in by_task for name in names)) or ["their tasks or recipes"]


def _deciding(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if key.split(".")[0] in GROUPS and key not in OTHERS}


def _named(flats: Sequence[Mapping[str, Any]]) -> list[str]:
    """The entries that differ, with their values where those are few and short."""
    out = []
    for key in dict.fromkeys(key for flat in flats for key in flat):
        values = list(dict.fromkeys(str(flat.get(key)) for flat in flats))
        if len(values) > 1:
            name = NAMES.get(key, key.replace("fit.", "specialists."))
            plain = key not in ("start", "rows", "best_on") and len(values) <= SHOWN
            out.append(name + f" ({', '.join(values)})" * plain)
    return out


def _flat(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values."""
    for key, value in node.items() if isinstance(node, Mapping) else ():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
