"""Exported folders on the Hugging Face hub."""

from pathlib import Path
from typing import Any

from mixalign.errors import MixalignError
from mixalign.sharing.find import TrainedModel

__all__ = ["check_push", "push_folder"]

OLD = ["*.safetensors", "*.safetensors.index.json", "adapter_config.json"]  # of what was pushed there before


def check_push(repo: str, found: TrainedModel, adapter: bool, base_model: str | None) -> None:
    """Refuses, before anything is written, what could not be pushed or would be of no use there.

    Raises:
        MixalignError: for a name that is none, without a token, or for an adapter whose base nobody else has.
    """
    from huggingface_hub import constants, get_token
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils._validators import validate_repo_id

    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise MixalignError(f"--push {repo} is no name of a repository: {error} Give ORG/NAME.") from error
    if constants.HF_HUB_OFFLINE:
        raise MixalignError("--push needs the hub, and HF_HUB_OFFLINE forbids it. Unset it, or leave out --push.")
    if get_token() is None:
        raise MixalignError(
            f"--push {repo} needs a token that may write there. Set HF_TOKEN to one, or log in: `hf auth login`."
        )
    if adapter and found.base is not None and not base_model:
        made = "a reference policy or a model that mixalign made" if found.base_is_made else "a folder here"
        cure = "" if found.base_is_made else " Name the base as the hub has it, --base-model ORG/NAME;"
        raise MixalignError(
            f"--push of the adapter in {found.folder} would be of no use to others: its base is {made}, "
            f"{found.base}.{cure} Leave out --adapter to push one model of both."
        )


def push_folder(folder: Path, repo: str, private: bool) -> str:
    """Uploads a folder in one commit, in place of the weights that are there; gives the address.

    Args:
        private: whether the repository is, where it is made now; one that is there stays as it is.

    Raises:
        MixalignError: when the hub refuses or cannot be reached; the folder stays.
    """
    from huggingface_hub import HfApi, constants

    api: Any = HfApi(endpoint=constants.ENDPOINT)
    try:
        api.create_repo(repo, private=private, exist_ok=True)
        api.upload_folder(repo_id=repo, folder_path=folder, delete_patterns=OLD, commit_message="mixalign export")
    except Exception as error:  # of httpx, httpx2 or requests, by the version of huggingface_hub
        status = getattr(getattr(error, "response", None), "status_code", None)
        reason = f"the hub answers HTTP {status}" if status else f"{constants.ENDPOINT} could not be reached"
        cure = "Set HF_TOKEN to a token that may write there." if status in (401, 403) else "Try it again."
        detail = (" ".join(str(error).split()) or type(error).__name__)[:300]
        raise MixalignError(
            f"{folder} could not be pushed to {repo}: {reason} ({detail}). {cure} The folder is whole: `hf upload "
            f"{repo} {folder}` sends it without exporting again."
        ) from error
    return f"{constants.ENDPOINT}/{repo}"
