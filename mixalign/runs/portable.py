"""What lets a run's folder be used elsewhere: the base of its adapter, and where its relative paths begin."""

from collections.abc import Iterator
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import Any

from mixalign.files import copy_whole, read_json, write_json
from mixalign.jobs.job import Job
from mixalign.models.adapters import ADAPTER, BASE, NAME, TRAINED_ON
from mixalign.runs.identity import started_in

__all__ = ["export_base", "where_it_began"]


def export_base(folder: Path, *made_in: Path, job: Job | None = None) -> None:
    """Copies the base of a run's adapter into `base/`, where mixalign made it; PEFT wants its name to be absolute.

    Args:
        made_in: folders of what mixalign made, such as the cache; a base of one's own stays where it is.
        job: of the run, where it is known; the fingerprint of a base of one's own is kept with the adapter.
    """
    path = folder / "model" / ADAPTER
    if not path.is_file():
        return
    config = read_json(path)
    base = Path(str(config.get(NAME) or "")).resolve()
    of_a_run = base.name == BASE and (base.parent / "model" / ADAPTER).is_file()  # whose round this run shares
    ours = of_a_run or any(base.is_relative_to(place.resolve()) for place in made_in)
    if not base.is_dir() or not ours:
        source: Any = job and job.settings.model
        if job and getattr(source, "path", None) and not source.load_in_4bit:  # no adapter is merged into 4 bits
            write_json(path.with_name(TRAINED_ON), {"dtype": source.dtype, "fingerprint": job.start})
        return
    copy_whole(base, folder / BASE)
    write_json(path, config | {NAME: str((folder / BASE).resolve())})


@contextmanager
def where_it_began(folder: Path) -> Iterator[Path]:
    """Has relative paths of a run's configuration begin where it was started, if that is still there.

    Every verb that takes a run and reads its rows or models works within, its own paths made absolute before.
    Gives the run's folder as an absolute path.
    """
    folder = folder.resolve()
    began = started_in(folder)
    with chdir(began if began and began.is_dir() else Path.cwd()):
        yield folder
