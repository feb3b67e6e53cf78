"""The models whose answers stand side by side: the one that a run started from, its specialists, and its result."""

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mixalign.config.settings import RunSettings
from mixalign.errors import MixalignError
from mixalign.files import read_json
from mixalign.fingerprint import fingerprint
from mixalign.models.generate import generate_answers
from mixalign.models.gguf import GGUF
from mixalign.models.load import Pretrained
from mixalign.runs.folder import read_settings
from mixalign.runs.origin import read_identity
from mixalign.runs.rendering import kept_rendering, rendering_of
from mixalign.runs.yardstick import SPECIALISTS
from mixalign.sharing.find import TrainedModel, find_model
from mixalign.sharing.prompts import Renderer

__all__ = ["AFTER", "BEFORE", "Answering", "Voice", "renderer_of", "start_of", "start_of_run", "voices_of"]

BEFORE, AFTER = "before", "after"


@dataclass(frozen=True)
class Voice:
    """One of the models: what it is called, and what loads it."""

    name: str
    build: Callable[[], Any]


def voices_of(found: TrainedModel, specialists: bool) -> list[Voice]:
    """The start of the run, its specialists if they are wanted, and its result.

    Of a model without a run, an exported one perhaps, the start is known where it is an adapter.

    Raises:
        MixalignError: when there are no specialists, or a model is gone.
    """
    after = Voice(AFTER, found.source.build)
    if found.run is None:
        if specialists:
            raise MixalignError(f"--specialists: {found.folder} is of no run. Leave it out, or give a run folder.")
        return ([Voice(BEFORE, found.source.base(found.adapter).build)] if found.adapter else []) + [after]
    settings = read_settings(found.run)
    tasks = _specialists(found.run, settings) if specialists else []
    return [Voice(BEFORE, start_of(found, found.run, settings)), *tasks, after]


def start_of(found: TrainedModel, run: Path, settings: RunSettings) -> Callable[[], Any]:
    """What loads the model that training began with: an adapter's base, or the reference policy."""
    if found.adapter is not None:
        return partial(found.source.base(found.adapter).build)
    return start_of_run(run, settings)


def start_of_run(run: Path, settings: RunSettings) -> Callable[[], Any]:
    """The same of a run whose model need not be there yet.

    Raises:
        MixalignError: when its reference policy is gone, or its `identity.json` is damaged.
    """
    identity = read_identity(run)
    start = (identity.get("origin") or {}).get("start") or _start_of_older(run)
    policy = settings.cache_dir.absolute() / "reference" / str(start) / "model"
    if policy.is_dir():
        return partial(Pretrained(str(policy)).build)
    if start and start != identity.get("base"):
        raise MixalignError(
            f"The model that {run} started from, a reference policy, is missing: {policy} is not there. Restore it, or "
            f"name the cache that has it as `cache_dir` in {run / 'config.yaml'}."
        )
    source = settings.model
    return partial((source.unpacked(settings.cache_dir) if isinstance(source, GGUF) else source).build)


def _start_of_older(run: Path) -> str | None:
    """Fingerprint of the start of a run of an older version, where it had specialists."""
    path = run / SPECIALISTS
    recipes = read_json(path) if path.is_file() else {}
    return next((recipe.get("start") for recipe in recipes.values()), None)


def _specialists(run: Path, settings: RunSettings) -> list[Voice]:
    path = run / SPECIALISTS
    recipes = read_json(path) if path.is_file() else {}
    named = settings.specialists.dir
    places = {
        task: Path(named) / task
        if named
        else settings.cache_dir.absolute() / "specialists" / f"{task}-{fingerprint(recipe)}"
        for task, recipe in recipes.items()
    }
    if not places:
        raise MixalignError(f"--specialists: {run} had no specialists. Leave it out.")
    for task, place in places.items():
        if not (place / "model").is_dir():
            raise MixalignError(
                f"--specialists: that of `{task}` is not at {place}. Restore that folder, name the cache that has it "
                f"as `cache_dir` in {run / 'config.yaml'}, or leave out --specialists."
            )
    return [Voice(f"specialist {task}", find_model(place).source.build) for task, place in places.items()]


def renderer_of(found: TrainedModel, task: str | None = None) -> Renderer:
    """Makes token ids of prompts as the run did, and texts of answers.

    Args:
        task: whose rows prompts are rendered as; None: as conversations where those of some task were, and of a model
            of which that is not known where it has a chat template.

    Raises:
        MixalignError: when there is no such task.
    """
    tokenizer = found.source.tokenizer()
    read = rendering_of(found.run, read_settings(found.run)) if found.run else kept_rendering(found.folder)
    if read is None:
        if task is not None:
            raise MixalignError(f"--task {task}: {found.folder} is of no run. Leave it out.")
        return Renderer(tokenizer, tokenizer.chat_template is not None)
    if task is not None:
        read.check(task, str(found.run or found.folder))
    specs, known = read.specs, read.chat
    asked = [*specs] if task is None else [task]
    chats = [name for name in asked if known is None or known.get(name)] if tokenizer.chat_template else []
    given = [dict(specs[name].chat_template_kwargs) for name in chats]
    alike = all(entry == given[0] for entry in given)
    return Renderer(
        tokenizer,
        bool(chats),
        given[0] if given and alike else {},
        read.date,
        plain=[name for name in asked if name not in chats] if chats else [],
        differing=[] if alike else chats,
    )


@dataclass
class Answering:
    """Asks a model.

    Attributes:
        precision: Lightning's, as in the training.
    """

    renderer: Renderer
    max_new_tokens: int
    temperature: float = 0.0
    seed: int = 0
    precision: str = "32-true"

    def __post_init__(self) -> None:
        self.ends = self.renderer.ends()

    def texts(self, model: Any, prompts: Sequence[np.ndarray]) -> list[str]:
        """One answer a prompt.

        Raises:
            MixalignError: for prompts that leave no room in the model's positions.
        """
        self._check_positions(model, prompts)
        tokenizer = self.renderer.tokenizer
        made = generate_answers(
            model,
            prompts,
            pad=tokenizer.pad_token_id or 0,
            ends=self.ends,
            max_new_tokens=self.max_new_tokens,
            temperature=self.temperature,
            seed=self.seed,
            precision=self.precision,
        )
        return [self.renderer.text(ids) for ids in made]

    def texts_of(self, voice: Voice, prompts: Sequence[np.ndarray]) -> list[str]:
        """The same of a model that is loaded for it and freed."""
        model = on_device(voice.build())
        answers = self.texts(model, prompts)
        del model
        gc.collect()
        return answers

    def _check_positions(self, model: Any, prompts: Sequence[np.ndarray]) -> None:
        positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        longest = max(map(len, prompts))
        if isinstance(positions, int) and 0 < positions < longest + self.max_new_tokens:
            raise MixalignError(
                f"--max-new-tokens is {self.max_new_tokens}, behind a prompt of {longest} tokens, but the model has "
                f"{positions} positions. Lower it to {max(1, positions - longest)} or less, or shorten the prompt."
            )


def on_device(model: Any) -> Any:
    return model.to("cuda" if torch.cuda.is_available() else "cpu")
