"""In which settings runs differ."""

from collections.abc import Sequence

from mixalign.reporting.read.files import RunConfig
from mixalign.reporting.read.runs import Run

__all__ = ["differing_keys", "spelled"]


def differing_keys(runs: Sequence[Run]) -> list[str]:
    """Dotted settings that differ between these runs, in the order of the files, and not merely by seed."""
    settings = [run.settings for run in runs]
    seeds = [run.seed for run in runs]
    keys = dict.fromkeys(key for flat in settings for key in flat)
    return [key for key in keys if _tells(key, settings, seeds)]


def _tells(key: str, settings: Sequence[RunConfig], seeds: Sequence[int]) -> bool:
    """Whether the key differs, and not merely with the seed, as a path to that seed's model does."""
    values = [spelled(flat.get(key)) for flat in settings]
    texts = all(isinstance(flat.get(key), str) for flat in settings)
    if len(set(values)) < 2 or not texts or key.endswith(".name"):
        return len(set(values)) > 1
    return len(set(zip(seeds, values, strict=True))) > len(set(seeds))


def spelled(value: object) -> str:
    """A setting as one writes it on the command line."""
    if isinstance(value, list):
        return f"[{','.join(map(spelled, value))}]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)
