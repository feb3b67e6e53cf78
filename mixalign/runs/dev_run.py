"""A run of two steps a stage in a folder that is thrown away, to see that every stage works: `fast_dev_run=true`."""

import logging
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

from mixalign.config.parse import parse
from mixalign.config.settings import RunSettings
from mixalign.data.read.sources import discover_tasks
from mixalign.errors import MixalignError, Stopped
from mixalign.models.gguf import GGUF
from mixalign.together.agree import agree, is_first, wait

__all__ = ["least_steps", "shortened", "trial"]

log = logging.getLogger(__name__)
STEPS, ROWS, HELD_OUT = 2, 32, 8
MOST = 1000  # steps of a generalist that a rule may need
GENERATED = {"rows": ROWS, "validation_rows": HELD_OUT, "test_rows": HELD_OUT}
AGAIN = "nothing of the trial is kept. The same command tries again."
CSV = {"csv": {"_target_": "mixalign.training.metrics_file.MetricsFile"}}


@contextmanager
def trial(settings: RunSettings, in_sweep: bool = False) -> Iterator[tuple[RunSettings, Path]]:
    """Settings with two steps a stage, few rows and a cache of their own, and a run folder; both go afterwards.

    Raises:
        MixalignError: in a sweep, and on several machines, which have no folder in common that may be thrown away.
    """
    if in_sweep or settings.trainer.num_nodes != 1:
        raise MixalignError(
            "`fast_dev_run=true` tries out one run on one machine: leave out `-m` and further machines."
        )
    folder = Path(agree(tempfile.mkdtemp(prefix="mixalign-trial-") if is_first() else ""))
    steps = least_steps(settings)
    more = "" if steps == STEPS else f" ({steps} of the generalist: `mixer={settings.mixer_name}` has no fewer)"
    log.info(
        "fast_dev_run: %d steps of every stage%s, on at most %d training rows a task that is read or generated, with "
        "a cache of its own; nothing is kept, and the numbers mean nothing",
        STEPS, more, ROWS,
    )  # fmt: skip
    try:
        short = replace(parse(shortened(settings.plain, folder / "cache", steps)), progress=settings.progress)
        model = settings.model
        if isinstance(model, GGUF) and model.is_unpacked(settings.cache_dir):
            short = replace(short, model=model.unpacked(settings.cache_dir))
        with _nameless(folder):
            yield short, folder / "run"
        wait()
        log.info(
            "fast_dev_run: every stage has run; nothing of it was kept. Leave fast_dev_run out for the run itself."
        )
    finally:
        if is_first():
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _nameless(folder: Path) -> Iterator[None]:
    """Within, no log line, no error and no word of a stop names a folder that is gone when it is read."""

    below = re.compile(re.escape(str(folder)) + r"([\w./-]*\w)?")

    def plain(text: str) -> str:
        return below.sub("a folder of the trial", text)

    def rename(record: logging.LogRecord) -> bool:
        record.msg, record.args = plain(record.getMessage()), ()
        return True

    handlers = logging.getLogger().handlers[:]
    for handler in handlers:
        handler.addFilter(rename)
    try:
        yield
    except MixalignError as error:
        raise MixalignError(plain(str(error))) from error
    except Stopped as stop:
        where = stop.text.split(";")[0].split(". ")[0]
        raise Stopped(f"{where}; {AGAIN}", int(stop.code or 0)) from None
    finally:
        for handler in handlers:
            handler.removeFilter(rename)


def least_steps(settings: RunSettings) -> int:
    """Two, or as many as the rule's own phases take; two as well where no number would do, and the run says why."""
    for steps in range(STEPS, MOST + 1):
        with suppress(MixalignError):
            settings.mixer.for_run([*_tasks(settings.plain["data"])], steps)
            return steps
    return STEPS


def shortened(plain: Mapping[str, Any], cache: Path, steps: int = STEPS) -> dict[str, Any]:
    """The configuration of a run with two steps in each of its stages.

    Args:
        cache: where its models and scores go.
        steps: of the generalist.
    """
    config: dict[str, Any] = deepcopy(dict(plain))
    config |= {"fast_dev_run": False, "cache_dir": str(cache), "run_dir": None, "resume": None, "max_time": None}
    config |= {"steps": steps, "epochs": None, "val_every": 1, "save_every": None, "log_every": 1}
    config["specialists"] |= {"steps": STEPS, "epochs": None, "dir": None}
    if config["reference"]["sft_steps"] != 0:
        config["reference"] |= {"sft_steps": STEPS, "sft_epochs": None}
    config["influence"] |= {"samples": HELD_OUT, "sampling": None, "bootstrap": 10}
    config["merge"]["trials"] = min(config["merge"]["trials"], STEPS)
    config["eval"] |= {"generate": min(config["eval"]["generate"], STEPS), "max_new_tokens": HELD_OUT}
    config["logger"] = CSV if config["logger"] else {}
    config["data"] |= {"tasks": _few_rows(config["data"]), "cache_tokens": False}
    return config


def _few_rows(data: Mapping[str, Any]) -> dict[str, Any]:
    """The tasks, each with few training rows; those that the configuration takes out stay out."""
    out = dict.fromkeys((data["tasks"] or {}).keys())
    return out | {task: entry | _fewer(entry) for task, entry in _tasks(data).items()}


def _tasks(data: Mapping[str, Any]) -> dict[str, Any]:
    """The tasks and their entries, those of `data.root` too."""
    root: dict[str, Any] = {task: {} for task in discover_tasks(data["root"])} if data["root"] else {}
    return {task: entry for task, entry in (root | dict(data["tasks"] or {})).items() if entry is not None}


def _fewer(entry: Mapping[str, Any]) -> dict[str, int]:
    if entry.get("generator"):
        return {key: min(rows, entry.get(key) or rows) for key, rows in GENERATED.items()}
    return {"max_rows": min(ROWS, entry.get("max_rows") or ROWS)}
