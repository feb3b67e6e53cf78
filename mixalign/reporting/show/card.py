"""The model card of a run: a README.md with the metadata that the Hugging Face hub reads, and a small picture.

It says what the run's files say, and no place on this machine.
"""

import logging
import re
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mixalign.errors import MixalignError
from mixalign.reporting.read.files import read_object
from mixalign.reporting.read.runs import Run, load_run
from mixalign.reporting.show import card_text as text
from mixalign.reporting.show.card_use import use
from mixalign.reporting.show.plots.card import mixture_picture

__all__ = ["CARD", "PICTURE", "Shown", "filled_in", "leave_card", "put_further", "write_card", "write_plain_card"]

log = logging.getLogger(__name__)
HERE = Path(__file__).parent
CARD, PICTURE = "README.md", "mixture.png"
PIPELINE = "text-generation"


@dataclass(frozen=True)
class Shown:
    """What a card says beside the run's own files.

    Attributes:
        name: what the model is loaded by.
        is_adapter: whether the folder holds an adapter. `base_beside`: whether its base is in it, as `base/`.
        base_model: id of the base on the hub; None: as the run knows it.
        base_license: of the base; None: not known. `base_file`: the GGUF file that it was taken out of; empty: none.
        license: an id of the hub's list; None: the card asks for it.
        dtype: of the weights, as in `bfloat16`; empty: not said.
    """

    name: str = "path/to/this/folder"
    is_adapter: bool = False
    base_beside: bool = False
    base_model: str | None = None
    base_license: str | None = None
    base_file: str = ""
    license: str | None = None
    dtype: str = ""


def filled_in(folder: Path) -> tuple[str | None, str | None]:
    """The license and the base model that a folder's card names, as its user may have filled them in."""
    from huggingface_hub import ModelCard

    try:
        known = ModelCard.load(folder / CARD, ignore_metadata_errors=True).data.to_dict()
    except (OSError, ValueError, TypeError):
        return None, None
    license, base = known.get("license"), known.get("base_model")
    on_hub = isinstance(base, str) and re.fullmatch(r"[\w.-]+/[\w.-]+", base)
    return license if isinstance(license, str) else None, base if on_hub else None


def leave_card(run_dir: Path) -> None:
    """Writes the card of a run into its `model/`, unless one is there that is newer than the results.

    A card that fails is a warning: the run is finished.
    """
    folder, results = run_dir / "model", run_dir / "eval.json"
    there = folder / CARD
    if there.is_file() and there.stat().st_mtime_ns >= results.stat().st_mtime_ns:
        return  # perhaps with what its user filled in
    try:
        write_card(run_dir, folder, Shown(is_adapter=(folder / "adapter_config.json").is_file()))
    except (MixalignError, OSError) as error:
        log.warning("The model card %s could not be written: %s", there, error)


def put_further(run_dir: Path) -> None:
    """Writes what a run was measured on later into its model card, and leaves the rest of the card as it is.

    Raises:
        MixalignError: when a file of the run cannot be read.
    """
    path = run_dir / "model" / CARD
    if not path.is_file():
        leave_card(run_dir)
        return
    section, old = text.further(load_run(run_dir)), path.read_text(encoding="utf-8")
    if text.MEASURED_LATER in old:
        front, _, rest = old.partition(text.MEASURED_LATER)
        _, mark, rest = rest.partition("\n## ")
        new = f"{front}{section}\n{mark}{rest}"
    else:
        front, mark, rest = old.partition("\n## Training\n")
        new = f"{front}\n{section}\n{mark}{rest}" if mark else f"{old.rstrip()}\n\n{section}\n"
    path.write_text(new, encoding="utf-8")


def write_card(run_dir: Path, folder: Path, shown: Shown) -> None:
    """Writes `README.md` and, where the mixture moved, `mixture.png` into a model's folder.

    Raises:
        MixalignError: when a file of the run cannot be read.
    """
    run = load_run(run_dir)
    identity = read_object(run_dir / "identity.json")
    origin = identity.get("origin") or {}
    shown = replace(
        shown,
        base_model=shown.base_model or origin.get("base_model"),
        base_license=origin.get("base_license"),
        base_file=origin.get("base_file") or "",
    )
    picture = ""
    if run.mix_history is not None and run.mix_history.moved:
        mixture_picture(run).savefig(folder / PICTURE, format="png", dpi=110, metadata={"Software": None})
        picture = PICTURE
    _write(folder, run, identity, shown, picture)


def write_plain_card(recipe: Mapping[str, Any], folder: Path, shown: Shown) -> None:
    """Writes the card of a model that is not a run's own, such as a specialist.

    Args:
        recipe: what it was made by, as a `recipe.json` says; empty where nobody knows.
    """
    from huggingface_hub import ModelCard

    task, objective = recipe.get("task"), (recipe.get("objective") or {}).get("name")
    chat = _is_chat({}, folder)
    what = f"A specialist, trained by mixalign on the task `{task}` alone" if task else "A model exported by mixalign"
    sections = [
        f"---\n{_metadata(shown, [objective] if objective else [])}\n---",
        f"# {'Specialist of ' + str(task) if task else 'Exported model'}",
        what
        + (f", by {objective}." if objective else ".")
        + (f" Weights are in {shown.dtype}." if shown.dtype else ""),
        f"```python\n{use(shown.name, shown.is_adapter, shown.base_beside, bool(shown.base_model), chat)}\n```",
        text.license_note(shown.license, shown.base_model),
    ]
    card = ModelCard("\n\n".join(sections), ignore_metadata_errors=True)
    (folder / CARD).write_text(str(card).rstrip() + "\n", encoding="utf-8")


def _write(folder: Path, run: Run, identity: dict[str, Any], shown: Shown, picture: str) -> None:
    from huggingface_hub import ModelCard

    origin = identity.get("origin") or {}
    on_hub = _loaded_from_hub(folder, shown)
    tags = [run.objective, run.mixer, *(["lora"] if run.config.get("lora") else [])]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the hub's words on metadata that are not there
        card = ModelCard.from_template(
            _metadata(shown, tags, (origin.get("data_sets") or {}).values()),
            template_str=(HERE / "card.md.j2").read_text(encoding="utf-8"),
            title=text.title(run, shown.base_model),
            summary=text.summary(run, shown.is_adapter, shown.base_model, shown.dtype, shown.base_file),
            use=use(shown.name, shown.is_adapter, shown.base_beside, bool(on_hub), _is_chat(origin, folder)),
            note=text.base_note(run, shown.is_adapter, shown.base_beside, on_hub),
            mixture=text.mixture(run, identity.get("rows") or {}),
            mixture_note=text.mixture_note(run, bool(picture)),
            picture=picture,
            results=text.results(run),
            further=text.further(run),
            training=text.training(run),
            command=text.command(origin.get("overrides") or []),
            versions=text.versions(origin.get("versions") or {}, identity.get("versions") or {}),
            license_note=text.license_note(shown.license, shown.base_model, shown.base_license),
            data_note=text.data_note(run, origin.get("data_sets") or {}),
        )
    (folder / CARD).write_text(re.sub(r"\n{3,}", "\n\n", str(card)).rstrip() + "\n", encoding="utf-8")


def _is_chat(origin: Mapping[str, Any], folder: Path) -> bool:
    """Whether rows of some task were conversations; where that is not known, whether there is a chat template."""
    chat = origin.get("chat")
    if chat is None:
        return any(folder.glob("chat_template*"))
    return any(chat.values()) if isinstance(chat, dict) else bool(chat)


def _loaded_from_hub(folder: Path, shown: Shown) -> str | None:
    """The base model, where an adapter is loaded on the hub's; one on a file's rounded weights belongs on these."""
    if not shown.base_file:
        return shown.base_model
    named = read_object(folder / "adapter_config.json").get("base_model_name_or_path") if shown.is_adapter else None
    return shown.base_model if named == shown.base_model else None


def _metadata(shown: Shown, tags: Sequence[str], data_sets: Collection[str] = ()) -> Any:
    """The metadata; what is not known is left out."""
    from huggingface_hub import ModelCardData

    known: dict[str, Any] = {
        "base_model": shown.base_model,
        "base_model_relation": ("adapter" if shown.is_adapter else "finetune") if shown.base_model else None,
        "datasets": sorted(set(data_sets)),
        "license": shown.license,
        "library_name": "peft" if shown.is_adapter else "transformers",
        "pipeline_tag": PIPELINE,
        "tags": ["mixalign", *tags],
    }
    return ModelCardData(**{key: value for key, value in known.items() if value})
