"""What a run would find here: libraries, processors, memory, disk, the hub and trackers; with what is amiss."""

import os
import platform
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

__all__ = ["Finding", "examine"]

GB = 1e9
LITTLE_DISK, LITTLE_MEMORY = 5.0, 2.0  # GB below which a run on a real model is likely to fail
NAMED = ("torch", "lightning", "transformers", "peft", "datasets", "hydra-core", "omegaconf", "torchmetrics", "wandb")


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        advice: what to do; empty where nothing is amiss.
    """

    what: str
    found: str
    advice: str = ""


def examine(cache: Path, runs: Path, network: bool = True) -> Iterator[Finding]:
    """Looks at everything, one after the other.

    Args:
        network: whether to ask the hub whether it is there, for three seconds at most.
    """
    yield Finding("python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    yield from _libraries()
    yield from _processors()
    yield _memory()
    for what, place in (("cache", cache), ("runs", runs)):
        yield _disk(what, place)
    yield _hub(network)
    yield _wandb()


def _libraries() -> Iterator[Finding]:
    found, missing = [], []
    extras: dict[str, list[str]] = {}
    for name in NAMED:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            missing.append(name)
    yield Finding("mixalign", _version_of("mixalign"))
    yield Finding("libraries", ", ".join(found), f"pip install {' '.join(missing)}" if missing else "")
    for line in requires("mixalign") or []:
        name, _, extra = line.partition("; extra ==")
        if extra and extra.strip(" '\"") != "dev":
            extras.setdefault(extra.strip(" '\""), []).append(_name_of(name))
    ready = [extra for extra, names in extras.items() if all(_is_installed(name) for name in names)]
    yield Finding("extras", ", ".join(ready) or "none", "")


def _name_of(requirement: str) -> str:
    return requirement.split("[")[0].split(">")[0].split("=")[0].split("<")[0].strip()


def _is_installed(name: str) -> bool:
    return _version_of(name) != "not installed"


def _version_of(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _processors() -> Iterator[Finding]:
    import torch

    from mixalign.training.engine import cpu_multiplies_bf16
    from mixalign.training.threads import usable_cpus

    cpus, threads = usable_cpus(), torch.get_num_threads()
    bf16 = "multiplies bfloat16 in hardware" if cpu_multiplies_bf16() else "no bfloat16 in hardware: trains in float32"
    advice = f"Unset OMP_NUM_THREADS, or set it to {cpus}: more threads than CPUs are slow." if threads > cpus else ""
    yield Finding("CPU", f"{cpus} of {os.cpu_count()} usable, {threads} threads; {bf16}", advice)
    build = f"torch is built for {'CUDA ' + torch.version.cuda if torch.version.cuda else 'CPUs'}"
    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(number)
            found = f"{torch.cuda.get_device_name(number)}, {free / GB:.1f} of {total / GB:.1f} GB free; {build}"
            advice = "Another process holds most of its memory: nvidia-smi names it." if free < total / 4 else ""
            yield Finding(f"GPU {number}", found, advice)
    else:
        lost = "This machine has one (nvidia-smi), but this torch cannot use it: see pytorch.org for the build to take."
        yield Finding("GPU", f"none; {build}", lost if shutil.which("nvidia-smi") else "")


def _memory() -> Finding:
    from mixalign.training.memory import free_memory

    free = free_memory("cpu")
    if free is None:
        return Finding("memory", "unknown on this system")
    few = free / GB < LITTLE_MEMORY
    return Finding("memory", f"{free / GB:.1f} GB free", "Little for a real model: end other programs." if few else "")


def _disk(what: str, place: Path) -> Finding:
    from mixalign.files import may_write

    there = next(folder for folder in (place.absolute(), *place.absolute().parents) if folder.is_dir())
    free = shutil.disk_usage(there).free / GB
    advice = ""
    if not may_write(place):
        advice = f"This user may not write there: name another `{'cache_dir' if what == 'cache' else 'run_dir'}`."
    elif free < LITTLE_DISK:
        advice = "Little for checkpoints: `mixalign cache --remove`, or another place."
    return Finding(what, f"{place}{'' if place.is_dir() else ' (not there yet)'}, {free:.0f} GB free", advice)


def _hub(network: bool) -> Finding:
    from huggingface_hub import constants, get_token

    token = "with a token" if get_token() else "without a token"
    if constants.HF_HUB_OFFLINE:
        return Finding(
            "hub", f"offline by HF_HUB_OFFLINE, {token}: models and data sets come from folders and its cache"
        )
    if not network:
        return Finding("hub", f"{constants.ENDPOINT}, {token}; not asked")
    reason = _why_unreachable(constants.ENDPOINT)
    if reason is None:
        return Finding("hub", f"{constants.ENDPOINT} answers, {token}")
    advice = "Give models and data as folders, set HF_ENDPOINT to a mirror, or HF_HUB_OFFLINE=1 to stop asking."
    return Finding("hub", f"{constants.ENDPOINT} cannot be reached ({reason}), {token}", advice)


def _why_unreachable(address: str, ask: Callable[..., object] = urlopen) -> str | None:
    """None where something answers, be it with a refusal."""
    try:
        ask(Request(address, method="HEAD"), timeout=3)
    except HTTPError:
        return None
    except (OSError, ValueError) as error:
        return str(getattr(error, "reason", error))
    return None


def _wandb() -> Finding:
    mode = os.environ.get("WANDB_MODE", "online")
    if mode in ("offline", "disabled", "dryrun"):
        return Finding("W&B", f"{mode} by WANDB_MODE")
    account = os.environ.get("WANDB_API_KEY") or _has_wandb_account()
    advice = "" if account else "Only for logger=wandb: `wandb login`, or WANDB_MODE=offline."
    return Finding("W&B", "an account is set up" if account else "no account", advice)


def _has_wandb_account() -> bool:
    from netrc import NetrcParseError, netrc

    try:
        return "api.wandb.ai" in netrc().hosts
    except (OSError, NetrcParseError):
        return False
