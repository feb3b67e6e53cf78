"""Which runs can be compared: those of one objective on the same tasks, models and rows."""

from collections.abc import Sequence
from dataclasses import replace

from mixalign.reporting.read.differences import differing_keys, spelled
from mixalign.reporting.read.runs import Run

__all__ = ["grouped"]

MODEL = ("_target_", "path", "revision", "gguf_file", "package")  # settings that say which model it is,
SIZES = ("hidden_size", "num_layers", "num_heads", "intermediate_size")  # and how large
FEW = 6  # tasks that are named


def grouped(runs: Sequence[Run]) -> list[Run]:
    """The runs with what their group is called; runs of different groups have numbers that do not compare.

    Runs that differ in the amount of data stay together: their models are tried on the same kind of rows. Those that
    differ in names or places of data, or in the model, do not, unless that follows the seed.
    """
    families: dict[tuple[str, frozenset[str]], list[Run]] = {}
    for run in runs:
        families.setdefault((run.objective, frozenset(run.tasks)), []).append(run)
    titles: dict[object, str] = {}
    for family in families.values():
        keys = [key for key in differing_keys([run for run in family if not run.skipped]) if _parts(key, family)]
        if all(run.origin.get("base_model") for run in family) and _named(family, keys):
            keys = ["model", *(key for key in keys if not key.startswith("model."))]
        titles |= {run.path: _title(run, keys) for run in family}
    return [replace(run, group=titles[run.path]) for run in runs]


def _parts(key: str, runs: Sequence[Run]) -> bool:
    """Whether runs that differ in this setting are not compared."""
    group, leaf = key.partition(".")[0], key.rpartition(".")[2]
    if group == "model":
        return leaf in (*MODEL, *SIZES)
    return group == "data" and any(isinstance(run.settings.get(key), str) for run in runs)


def _named(runs: Sequence[Run], keys: Sequence[str]) -> bool:
    """Whether the names of the base models tell all that these settings say of models."""
    models = [tuple(spelled(run.settings.get(key)) for key in keys if key.startswith("model.")) for run in runs]
    names = [run.origin["base_model"] for run in runs]
    return 1 < len({*models}) == len({*names}) == len({*zip(models, names, strict=True)})


def _title(run: Run, keys: Sequence[str]) -> str:
    tasks = list(run.tasks)
    names = ", ".join(tasks[:FEW]) + (f" and {len(tasks) - FEW} more" if len(tasks) > FEW else "")
    told = run.settings | {"model": run.origin.get("base_model")}
    apart = "; ".join(f"{key} {spelled(told.get(key))}" for key in keys)
    return f"{run.objective.upper()} on {names or 'no task'}" + (f" ({apart})" if apart else "")
