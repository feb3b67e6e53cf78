"""Folders that Hydra makes for a command: each name is taken once, and a command that was refused leaves none."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from mixalign.files import NewFolder

__all__ = ["FreshFolder", "unused_removed"]

OURS = "${run_dir}"  # is part of the pattern that names folders in conf/train.yaml, and not of one that a user gives
SWEEP = {"multirun.yaml"}  # what Hydra leaves in the folder of a sweep


@dataclass(frozen=True)
class _Chosen:
    """The folder of the command that runs now, as it was before."""

    new: NewFolder
    entries: frozenset[str]

    @classmethod
    def of(cls, folder: Path) -> "_Chosen":
        there = frozenset(entry.name for entry in folder.iterdir()) if folder.is_dir() else frozenset()
        return cls(NewFolder.of(folder), there)

    def remove_unused(self) -> None:
        """Removes a run's folder; of a sweep those of its runs first, and the sweep's when none is left."""
        folder = self.new.path
        if (folder / "multirun.yaml").is_file():
            for entry in [entry for entry in folder.iterdir() if entry.is_dir() and entry.name not in self.entries]:
                NewFolder(entry, (entry,)).remove_if_unused()
            if {entry.name for entry in folder.iterdir()} == SWEEP and self.new.missing:
                (folder / "multirun.yaml").unlink()
        self.new.remove_if_unused()


_chosen: list[_Chosen] = []


class FreshFolder(Callback):
    """Of Hydra: names the folder of a run, or of a sweep, that has no `run_dir`.

    The name has the time in seconds; of several commands in one second the later ones get a number more.
    """

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        self._take(config, "run")

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        if name := self._take(config, "sweep"):
            with read_write(config), open_dict(config):  # each of its runs is composed anew
                config.hydra.overrides.hydra.append(f"hydra.sweep.dir='{name}'")

    def _take(self, config: DictConfig, kind: str) -> str:
        """Remembers whether the folder is there already, and makes it; gives its name where it was chosen here."""
        folder, node = Path(str(OmegaConf.select(config, f"hydra.{kind}.dir"))), config.hydra[kind]
        pattern = OmegaConf.to_container(node, resolve=False)["dir"]  # type: ignore[call-overload, index]
        if config.get("run_dir") is not None or OURS not in str(pattern):
            _chosen.append(_Chosen.of(folder))
            return ""
        folder = _make_unique(folder)
        with read_write(config), open_dict(config):
            node.dir = str(folder)
        return str(folder)


@contextmanager
def unused_removed() -> Iterator[None]:
    """Removes the folders that were made in it and in which no run began."""
    _chosen.clear()
    try:
        yield
    finally:
        for chosen in _chosen:
            chosen.remove_unused()
        _chosen.clear()


def _make_unique(folder: Path) -> Path:
    """Makes a folder of this name, or of one with the next free number behind it."""
    number = 1
    while True:
        path = folder if number == 1 else folder.with_name(f"{folder.name}_{number}")
        chosen = _Chosen.of(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.mkdir()
        except FileExistsError:
            number += 1
            continue
        _chosen.append(chosen)
        return path
