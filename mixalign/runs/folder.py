"""The config.yaml of a run folder."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from mixalign.config.parse import NEEDED, parse_saved
from mixalign.config.settings import RunSettings, touches
from mixalign.errors import MixalignError
from mixalign.files import write_text
from mixalign.jobs.job import Job

__all__ = ["read_plain", "read_settings", "that_matter", "write_config"]


def write_config(folder: Path, job: Job, **changes: Any) -> None:
    """Writes `config.yaml`: the whole configuration, with what follows from the rows and the model.

    Args:
        changes: entries in place of the job's.
    """
    write_text(folder / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(job.plain | changes)))


def read_settings(run_dir: Path) -> RunSettings:
    """The settings of a run folder; keys that this version does not know are left out.

    Raises:
        MixalignError: when there is no config.yaml, or it is no configuration of a run.
    """
    return parse_saved(read_plain(run_dir))


def read_plain(run_dir: Path) -> dict[str, Any]:
    """`config.yaml` of a run folder, as plain data.

    Raises:
        MixalignError: when there is none, or it is no configuration of a run.
    """
    path = run_dir / "config.yaml"
    if not path.is_file():
        raise MixalignError(f"{run_dir} is no run folder: it has no config.yaml.")
    cure = "Restore it from a copy, or train again in another `run_dir`."
    try:
        config: Any = OmegaConf.load(path)
    except (YAMLError, OmegaConfBaseException, UnicodeDecodeError, OSError) as error:
        raise MixalignError(f"{path} cannot be read: {' '.join(str(error).split())} {cure}") from error
    if not isinstance(config, DictConfig):
        raise MixalignError(f"{path} holds a list, and not the configuration of a run. {cure}")
    if missing := sorted(NEEDED - {str(key) for key in config}):
        raise MixalignError(
            f"{path} has no `{missing[0]}`: another version of mixalign wrote it, or it was changed. {cure}"
        )
    return cast(dict[str, Any], OmegaConf.to_container(config, resolve=True))


def that_matter(plain: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted key -> value of what touches the weights; empty groups are as good as none."""
    flat: dict[str, Any] = {}
    for name, value in plain.items():
        key = f"{prefix}{name}"
        if touches(key) != "weights":
            continue
        if isinstance(value, Mapping):
            flat |= that_matter(value, f"{key}.")
        else:
            flat[key] = value
    return flat
