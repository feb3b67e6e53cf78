"""What the runs of a sweep have in common: the specialists of the first, and the value that a sweeper minimises."""

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from mixalign.config.compose import settings_of
from mixalign.config.pin import FIRST
from mixalign.config.settings import touches
from mixalign.errors import MixalignError
from mixalign.files import write_text

__all__ = ["changes_specialists", "note_swept", "pin_to_first", "swept"]

SWEPT = "MIXALIGN_SWEPT"  # environment variable, which the workers of a launcher get as well
DECIDE = ("specialists", "optimizer", "lora", "objective", "model", "reference", "data", "trainer", "experiment")
DO_NOT = ("specialists.train", "reference.mode", "optimizer.lr")
"""Of these: the last decides them by `specialists.lr` only, which follows it unless set."""
FIRST_RUN = "first_run.yaml"
PATIENCE = 60  # seconds that runs wait for the first, where a launcher starts several at once


def note_swept(arguments: Sequence[str]) -> None:
    """Keeps which keys of the command line have several values, for the runs of the sweep."""
    keys = []
    for text in (argument for argument in arguments if "=" in argument and not argument.startswith("-")):
        try:
            (override,) = OverridesParser.create().parse_overrides([text])
        except HydraException:
            continue  # Hydra itself will say so
        if override.is_sweep_override():
            keys.append(override.key_or_group.replace("/", "."))
    os.environ[SWEPT] = ",".join(keys)


def swept() -> list[str]:
    """Keys in which the runs of this sweep differ, from the command line or from `hydra.sweeper.params`."""
    params = HydraConfig.get().sweeper.get("params") or {}
    return [key for key in os.environ.get(SWEPT, "").split(",") if key] + [str(key) for key in params]


def changes_specialists(config: DictConfig, keys: Iterable[str]) -> list[str]:
    """Those of some keys that decide the specialists, themselves or because another setting follows them.

    Args:
        config: as composed, unresolved.
    """
    if config.specialists.of is not None:
        return []
    plain = cast(dict[str, Any], OmegaConf.to_container(config, resolve=False))
    texts = [text for name in DECIDE for text in _texts(plain.get(name), name)]
    return [key for key in dict.fromkeys(keys) if _decides(key) or any(f"${{{key}}}" in text for text in texts)]


def pin_to_first(config: DictConfig) -> None:
    """Gives `specialists.of=first` its meaning in a sweep's run: the settings of run 0, which leaves them to others.

    Raises:
        MixalignError: when run 0 has left none.
    """
    hydra = HydraConfig.get()
    if config.specialists.of != FIRST:
        return
    path = Path(hydra.sweep.dir).absolute() / FIRST_RUN
    if int(hydra.job.num) == 0:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, OmegaConf.to_yaml(OmegaConf.create(dict(settings_of(config).plain))))
    one_by_one = str(hydra.launcher.get("_target_", "")).endswith("BasicLauncher")
    end = time.monotonic() + (0 if one_by_one else PATIENCE)
    while not path.is_file():
        if time.monotonic() > end:
            raise MixalignError(
                f"`specialists.of={FIRST}`, but the first run of the sweep has not begun, or was refused: there is no "
                f"{path}. Begin with it alone, or name a run: `specialists.of=RUN`."
            )
        time.sleep(0.5)
    config.specialists.of = str(path)


def _decides(key: str) -> bool:
    return key.split(".")[0] in DECIDE and not key.startswith(DO_NOT) and touches(key) == "weights"


def _texts(node: Any, prefix: str) -> Iterable[str]:
    """All texts of a node but those of settings that decide nothing."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from _texts(value, f"{prefix}.{key}")
    elif isinstance(node, str) and _decides(prefix):
        yield node
