"""The model that a path or an id means: of a run that is finished or is not, of a folder, of the hub."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mixalign.config.settings import RunSettings
from mixalign.errors import MixalignError
from mixalign.models.gguf import GGUF
from mixalign.models.load import Pretrained, add_lora
from mixalign.runs.folder import read_settings
from mixalign.runs.rendering import Rendering, kept_rendering, rendering_of
from mixalign.sharing.find import find_model
from mixalign.sharing.voices import start_of, start_of_run
from mixalign.training.callbacks.best_checkpoint import BestCheckpoint
from mixalign.training.checkpoints import newest_checkpoint
from mixalign.training.sharding import load_weights

__all__ = ["Opened", "open_model"]


@dataclass(frozen=True)
class Opened:
    """A model that is to be measured.

    Attributes:
        what: it in words.
        run: the run that it is of; None for others. `finished`: whether the run is.
        settings: the run's.
        start: makes the model that the run started from, its reference policy.
        chat: whether prompts are written by the chat template.
        rendering: how the rows of its tasks were read, where that is known.
    """

    what: str
    build: Callable[[], nn.Module]
    tokenizer: Any
    chat: bool
    run: Path | None = None
    finished: bool = False
    settings: RunSettings | None = None
    start: Callable[[], nn.Module] | None = None
    rendering: Rendering | None = None


def open_model(name: str) -> Opened:
    """Finds a model: a run folder, its `model/`, a folder that transformers or PEFT load, or an id of the hub.

    Of a run that is not finished it is the best checkpoint so far, where there were validations and the run exports by
    them; else the newest.

    Raises:
        MixalignError: when it is none of these, or an unfinished run has no checkpoint that can be read.
    """
    path = Path(name).expanduser()
    if (path / "config.yaml").is_file() and not ((path / "eval.json").is_file() and (path / "model").is_dir()):
        return _unfinished(path.resolve())
    if not path.exists():
        if path.is_absolute() or name.count("/") > 1 or name.startswith("."):
            raise MixalignError(f"There is no {name}. Give a run folder, a folder of a model, or an id of the hub.")
        source = Pretrained(name)
        tokenizer = source.tokenizer()
        return Opened(f"the model {name}", source.build, tokenizer, tokenizer.chat_template is not None)
    found = find_model(path)
    tokenizer = found.source.tokenizer()
    if found.run is None:
        kept = kept_rendering(found.folder)
        return Opened(f"the model in {name}", found.source.build, tokenizer, _chats(kept, tokenizer), rendering=kept)
    settings = read_settings(found.run)
    rendering = rendering_of(found.run, settings)
    return Opened(
        f"the model of the run {found.run.name}",
        found.source.build,
        tokenizer,
        _chats(rendering, tokenizer),
        found.run,
        True,
        settings,
        lambda: start_of(found, found.run or path, settings)(),
        rendering,
    )


def _unfinished(run: Path) -> Opened:
    settings = read_settings(run)
    checkpoint, why = _checkpoint(run, settings.export)
    source = settings.model.unpacked(settings.cache_dir) if isinstance(settings.model, GGUF) else settings.model
    tokenizer, rendering = source.tokenizer(), rendering_of(run, settings)
    return Opened(
        f"{why}, {checkpoint.name}, of the run {run.name}, which is not finished",
        partial(_from_checkpoint, run, settings, checkpoint),
        tokenizer,
        _chats(rendering, tokenizer),
        run,
        False,
        settings,
        lambda: start_of_run(run, settings)(),
        rendering,
    )


def _chats(rendering: Rendering | None, tokenizer: Any) -> bool:
    known = rendering.chat if rendering else None
    return tokenizer.chat_template is not None and (known is None or any(known.values()))


def _checkpoint(run: Path, export: str) -> tuple[Path, str]:
    """The checkpoint to measure, and what it is."""
    newest = newest_checkpoint(run)
    if newest is None:
        raise MixalignError(
            f"{run} is not finished and has no checkpoint that can be read yet, so there is nothing to measure. Wait "
            "for its first validation or `save_every` steps, or go on with it: the same command with "
            f"`run_dir={run}`."
        )
    if newest.is_file() and export in ("best", "best_gap"):
        content = torch.load(newest, map_location="cpu", weights_only=True, mmap=True)
        state = content.get("callbacks", {}).get(BestCheckpoint.__name__) or {}
        best = newest.with_name(Path(state["best_model_path"]).name) if state.get("best_model_path") else None
        if best is not None and best.is_file():
            return best, f"the best checkpoint so far by {state.get('monitor')}"
    return newest, "the newest checkpoint"


def _from_checkpoint(run: Path, settings: RunSettings, checkpoint: Path) -> nn.Module:
    """The start model with the trained weights of a checkpoint.

    Raises:
        MixalignError: when the start model is gone, or the checkpoint is not of it.
    """
    holder: Any = nn.Module()
    holder.model = add_lora(start_of_run(run, settings)(), settings.lora, settings.seed)
    if checkpoint.is_file():
        saved = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)["state_dict"]
        trained = {name for name, weight in holder.named_parameters() if weight.requires_grad}
        if missing := trained - saved.keys():
            raise MixalignError(
                f"{checkpoint} lacks {len(missing)} of the {len(trained)} weights that {run} trains, such as "
                f"`{min(missing)}`: its configuration or its start model is another one now. Restore them."
            )
    load_weights(holder, checkpoint)
    model: nn.Module = holder.model
    return model
