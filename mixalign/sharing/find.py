"""Which trained model a path means, and what is known of it from where it lies."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from mixalign.chat.templates import END_OF_TURN, template_text
from mixalign.errors import MixalignError
from mixalign.files import read_json
from mixalign.merging.read import model_folder
from mixalign.models.adapters import ADAPTER, TRAINED_ON, base_of, find_file, named_base
from mixalign.models.load import Pretrained
from mixalign.runs.claim import still_there
from mixalign.runs.folder import read_plain

__all__ = ["TrainedModel", "find_model"]

DTYPES = ("dtype", "torch_dtype")  # keys of config.json, by the version of transformers


@dataclass(frozen=True)
class TrainedModel:
    """A model on this disk.

    Attributes:
        folder: of its weights.
        run: the run folder that it is the model of; None for a specialist, a round or a model from elsewhere.
        config: the run's configuration; empty without a run.
    """

    folder: Path
    run: Path | None
    config: dict[str, Any]

    @property
    def adapter(self) -> Path | None:
        """The adapter_config.json; None for a full model."""
        return find_file(str(self.folder), ADAPTER)

    @cached_property
    def source(self) -> Pretrained:
        """What builds it, an adapter as one model with its base, and its tokenizer; weights as they were trained."""
        trusted = self.config.get("model", {}).get("trust_remote_code") is True
        return Pretrained(
            str(self.folder), dtype=self._dtype(), trust_remote_code=trusted, chat_template=self._template()
        )

    @property
    def base(self) -> Path | None:
        """The folder of an adapter's base, where that is a folder."""
        name = Path(named_base(self.adapter)[0]) if self.adapter else None
        return name.absolute() if name and name.is_dir() else None

    @property
    def base_is_made(self) -> bool:
        """Whether mixalign made the adapter's base, so that nobody else has it."""
        base = self.base
        if base is None:
            return False
        of_run = (base.parent / "model" / ADAPTER).is_file() or base.is_relative_to(self.folder.resolve())
        return of_run or (base.parent / "recipe.json").is_file()

    def _dtype(self) -> str:
        """Of the weights in the training, which is that of a full model's folder."""
        if self.adapter is None:
            return _stored(self.folder)
        if (known := self.folder / TRAINED_ON).is_file():
            return str(read_json(known)["dtype"])
        model = self.config.get("model", {})
        if not self.base_is_made and model.get("dtype"):
            return str(model["dtype"])
        base = Path(base_of(self.adapter)[0])
        return _stored(base) if base.is_dir() else "float32"

    def _template(self) -> str | None:
        """The name of the chat template that it was trained with, where it is one of ours: its turns end a text."""
        path = self.folder / "chat_template.jinja"
        text = path.read_text(encoding="utf-8") if path.is_file() else None
        return next((name for name in END_OF_TURN if text is not None and text == template_text(name)), None)


def _stored(folder: Path) -> str:
    config = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    text = config.get("text_config") or {}
    found = next((part[key] for part in (config, text) for key in DTYPES if part.get(key)), "float32")
    return str(found).removeprefix("torch.")


def find_model(path: Path) -> TrainedModel:
    """The model of a run folder, of its `model/`, of a specialist of the cache, or of any folder of a model.

    Raises:
        MixalignError: when there is none, or its run is not finished.
    """
    folder = model_folder(path).resolve()
    above = folder.parent
    run = above if folder.name == "model" and (above / "config.yaml").is_file() else None
    if run and not (run / "eval.json").is_file():
        raise MixalignError(
            f"{path} is not finished: its run has no eval.json. Go on with it: the same command with "
            f"`run_dir={run}`.{still_there(run)}"
        )
    return TrainedModel(folder, run, read_plain(run) if run else {})
