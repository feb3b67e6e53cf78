"""A run folder that exists already: finished, begun with the same settings, or somebody else's."""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from mixalign.errors import MixalignError
from mixalign.fingerprint import differences
from mixalign.pipelines.build import plain
from mixalign.pipelines.run_config import read_config

__all__ = ["claim"]

# settings that may change while a run is interrupted: what is shown, where things lie, how many machines, how fast
MAY_CHANGE = {"resume", "progress", "debug", "log_every", "run_dir", "name", "logger", "cache_dir", "engine", "merge"}
MAY_CHANGE |= {"micro_batch_size", "eval_batch_size"}
MACHINES = {"accelerator", "devices", "num_nodes", "strategy", "timeout", "deterministic"}


def claim(run_dir: Path, cfg: DictConfig) -> bool:
    """Makes sure that a folder holds no run with other settings.

    Returns:
        Whether the run is finished already.

    Raises:
        MixalignError: when the folder holds a run with other settings, naming them.
    """
    path = run_dir / "config.yaml"
    if cfg.resume or not path.is_file():
        return False
    found, wanted = _that_matter(read_config(run_dir)), _that_matter(cfg)
    if wanted["trainer"].get("precision") == "auto":  # it depends on the model, which is not there yet
        wanted["trainer"]["precision"] = found["trainer"].get("precision")
    if wrong := differences(found, wanted):
        raise MixalignError(
            f"{run_dir} already holds a run with other settings ({'; '.join(wrong)}). Choose another `run_dir`, or "
            "restore them to go on with that run."
        )
    return (run_dir / "eval.json").is_file()


def _that_matter(cfg: DictConfig) -> dict[str, Any]:
    settings = {key: value for key, value in plain(cfg).items() if key not in MAY_CHANGE}
    settings["trainer"] = {key: value for key, value in settings.get("trainer", {}).items() if key not in MACHINES}
    return settings
