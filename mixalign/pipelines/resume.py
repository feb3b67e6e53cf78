"""A run folder that exists already: finished, begun with the same settings, or somebody else's."""

from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from mixalign.errors import MixalignError
from mixalign.files import write_text
from mixalign.fingerprint import differences
from mixalign.pipelines.build import plain

__all__ = ["claim"]

# settings that may change while a run is interrupted: what is shown, where things lie, how many machines, how fast
MAY_CHANGE = {"resume", "progress", "debug", "log_every", "run_dir", "name", "logger", "cache_dir", "engine", "merge"}
MACHINES = {"accelerator", "devices", "num_nodes", "strategy"}


def claim(run_dir: Path, cfg: DictConfig) -> bool:
    """Writes the settings of a run into its folder, or makes sure that those there are the same.

    Returns:
        Whether the run is finished already.

    Raises:
        MixalignError: when the folder holds a run with other settings, naming them.
    """
    path = run_dir / "config.yaml"
    if path.is_file() and not cfg.resume:
        found = _that_matter(cast(DictConfig, OmegaConf.load(path)))
        if wrong := differences(found, _that_matter(cfg)):
            raise MixalignError(
                f"{run_dir} already holds a run with other settings ({'; '.join(wrong)}). Choose another `run_dir`, or "
                "restore them to go on with that run."
            )
        if (run_dir / "eval.json").is_file():
            return True
    write_text(path, OmegaConf.to_yaml(cfg, resolve=True))
    return False


def _that_matter(cfg: DictConfig) -> dict[str, Any]:
    settings = {key: value for key, value in plain(cfg).items() if key not in MAY_CHANGE}
    settings["trainer"] = {key: value for key, value in settings.get("trainer", {}).items() if key not in MACHINES}
    return settings
