"""Multi-task alignment of language models; the mixture is decided while it trains.

Names of `__all__` are the public ones: they stay, and are imported when they are first used.
"""

from os import PathLike
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mixalign.api.result import Result as Result
    from mixalign.api.scores import score_reference as score_reference
    from mixalign.api.scores import score_specialist as score_specialist
    from mixalign.data.batches.module import MixtureData as MixtureData
    from mixalign.data.read.spec import TaskSpec as TaskSpec
    from mixalign.errors import MixalignError as MixalignError
    from mixalign.mixers.ama_r import AMAR as AMAR
    from mixalign.mixers.ama_s import AMAS as AMAS
    from mixalign.mixers.fixed import Fixed as Fixed
    from mixalign.mixers.fixed import Temperature as Temperature
    from mixalign.mixers.group_dro import GroupDRO as GroupDRO
    from mixalign.mixers.odm import ODM as ODM
    from mixalign.models.load import LoRA as LoRA
    from mixalign.models.load import add_lora as add_lora
    from mixalign.models.tiny import TinyLlama as TinyLlama
    from mixalign.objectives.dpo import DPO as DPO
    from mixalign.objectives.kto import KTO as KTO
    from mixalign.objectives.sft import SFT as SFT
    from mixalign.training.callbacks.mixing import Mixing as Mixing
    from mixalign.training.callbacks.probes import probes_for as probes_for
    from mixalign.training.callbacks.task_log import TaskLog as TaskLog
    from mixalign.training.module import AlignModule as AlignModule
    from mixalign.training.optimizer import Optimizer as Optimizer

__version__ = "0.2.0.dev0"  # written here only: the build, `mixalign --version` and the wheel read it

PLACES = {
    "AMAR": "mixers.ama_r",
    "AMAS": "mixers.ama_s",
    "AlignModule": "training.module",
    "DPO": "objectives.dpo",
    "Fixed": "mixers.fixed",
    "GroupDRO": "mixers.group_dro",
    "KTO": "objectives.kto",
    "LoRA": "models.load",
    "MixalignError": "errors",
    "Mixing": "training.callbacks.mixing",
    "MixtureData": "data.batches.module",
    "ODM": "mixers.odm",
    "Optimizer": "training.optimizer",
    "Result": "api.result",
    "SFT": "objectives.sft",
    "TaskLog": "training.callbacks.task_log",
    "TaskSpec": "data.read.spec",
    "Temperature": "mixers.fixed",
    "TinyLlama": "models.tiny",
    "add_lora": "models.load",
    "probes_for": "training.callbacks.probes",
    "score_reference": "api.scores",
    "score_specialist": "api.scores",
}
"""Public name to the module of this package that defines it."""

__all__ = ["train", *PLACES]


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name not in PLACES:
        raise AttributeError(f"module 'mixalign' has no attribute {name!r}")
    value = getattr(import_module(f"mixalign.{PLACES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def train(*overrides: str, run_dir: str | PathLike[str], **settings: Any) -> "Result":
    """`mixalign train` from Python.

    Args:
        overrides: configuration keys as on the command line, such as `mixer=ama_r`.
        run_dir: the run's folder.
        settings: the same as Python objects, which come after `overrides`: `steps=500, optimizer={"lr": 1e-4},
            data={"tasks": {"math": {"path": "math.jsonl"}}}`. Of a group a text chooses the entry, `mixer="ama_r"`,
            and a dict sets keys of the chosen one.

    Returns:
        What `eval.json` holds, results by task, their mean and the worst task: a dict, with `worst`, `mixture`,
        `model()` and `plot()` beside.

    Raises:
        MixalignError: for anything in the configuration, the rows or the folder that cannot be used.
        Stopped: a SystemExit, when SIGTERM or Ctrl-C came, or `max_time` is over; its text says what is kept.
    """
    import time
    from pathlib import Path

    from mixalign.training.threads import wait_passively

    wait_passively()
    from mixalign.api.result import Result
    from mixalign.config.arguments import overrides_of
    from mixalign.config.compose import compose_settings
    from mixalign.config.console import quiet_libraries
    from mixalign.stopping import heed, limit
    from mixalign.verbs.train import run

    began = time.time()
    quiet_libraries()
    given = [*overrides, *overrides_of(settings)]
    composed = compose_settings(given)
    with heed(), limit(composed.seconds, began):
        return Result(run(composed, Path(run_dir), overrides=given), Path(run_dir))
