"""One short question to the Hugging Face hub, before its libraries ask at length.

Where there is no network they try every file six times, for 24 s, and then say less than they know.
"""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

__all__ = ["Closed", "asked"]

log = logging.getLogger(__name__)

Kind = Literal["model", "dataset"]
PROBES = {"model": "config.json", "dataset": "README.md"}  # the files that the libraries ask for first
OFFLINE = {"model": "HF_HUB_OFFLINE", "dataset": "HF_HUB_OFFLINE or HF_DATASETS_OFFLINE"}
FETCH = {"model": "hf download {}", "dataset": "datasets.load_dataset('{}')"}


@dataclass(frozen=True)
class Closed:
    """Why the hub gives nothing of a repository, as a clause, and what to do, as a sentence."""

    reason: str
    advice: str
    wanted: bool = False  # because the user forbids to ask


@contextmanager
def asked(repo: str, kind: Kind, revision: str | None = None) -> Iterator[Closed | None]:
    """Asks for a repository; within, the libraries may ask for the rest of it, or when it is closed for nothing.

    What was fetched before can be read either way. HF_HUB_OFFLINE and HF_DATASETS_OFFLINE are heeded.
    """
    from huggingface_hub import constants

    switches: list[Any] = [constants, sys.modules.get("datasets.config")]  # each library has its own
    before = [(module, module.HF_HUB_OFFLINE) for module in switches if module is not None]
    closed = _ask(repo, kind, revision, offline=before[-1 if kind == "dataset" else 0][1])
    try:
        for module, was in before:
            module.HF_HUB_OFFLINE = was or closed is not None
        yield closed
    finally:
        for module, was in before:
            module.HF_HUB_OFFLINE = was
    if closed and not closed.wanted:
        _warn(f"{closed.reason}: the copy in the cache is taken.")


@cache
def _warn(text: str) -> None:
    log.warning(text)


def _ask(repo: str, kind: Kind, revision: str | None, offline: bool) -> Closed | None:
    """Asks for the header of one file, once."""
    from huggingface_hub import constants, errors, get_hf_file_metadata, hf_hub_url

    wanted = f"{PROBES[kind]} of the {kind} {repo}"
    fill = f"fill the cache where there is a network (`{FETCH[kind].format(repo)}`) and name it in HF_HOME"
    if offline:
        reason = f"{wanted} was not asked for, since {OFFLINE[kind]} forbids it"
        return Closed(reason, f"Give a local folder, or {fill}, or allow the hub.", wanted=True)
    try:
        url = hf_hub_url(repo, PROBES[kind], repo_type=kind, revision=revision)
        get_hf_file_metadata(url, timeout=constants.HF_HUB_ETAG_TIMEOUT)
    except errors.HFValidationError:
        return Closed(f"`{repo}` is no folder here and no name of the hub", "Give a folder that exists, or a hub id.")
    except errors.HfHubHTTPError as error:
        return _refused(error, repo, kind, revision)
    except Exception as error:  # of httpx, httpx2 or requests, by the version of huggingface_hub
        what = " ".join(str(error).split()) or type(error).__name__
        reason = f"{wanted} was wanted from {constants.ENDPOINT}, which could not be reached ({what})"
        return Closed(reason, f"Give a local folder, or {fill}, with HF_HUB_OFFLINE=1, or set HF_ENDPOINT to a mirror.")
    return None


def _refused(error: Exception, repo: str, kind: Kind, revision: str | None) -> Closed | None:
    """What the hub answered; None for troubles that the libraries wait out, and for a repository without the file."""
    from huggingface_hub import constants, errors

    status = getattr(getattr(error, "response", None), "status_code", None)
    place = f"{constants.ENDPOINT}/{'datasets/' if kind == 'dataset' else ''}{repo}"
    if isinstance(error, errors.GatedRepoError):
        advice = f"Ask for it at {place}, and set HF_TOKEN to a token of that account."
        return Closed(f"the {kind} {repo} is gated (HTTP {status})", advice)
    if isinstance(error, errors.RevisionNotFoundError):
        return Closed(f"{place} has no revision `{revision}`", "Give a branch, tag or commit that it has.")
    if isinstance(error, errors.RepositoryNotFoundError) or status in (401, 403):
        advice = "Check the name; for a private one, set HF_TOKEN to a token that may read it."
        return Closed(f"{place} does not exist, or is not open to you (HTTP {status})", advice)
    return None
