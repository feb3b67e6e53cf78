"""How a training is made fast on this machine: layout of batches, precision, compilation, allocator."""

import ctypes
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from mixalign.checks import check_choice, check_flag, check_number
from mixalign.data.batches.collate import Layout, collate
from mixalign.data.batches.pack import pack
from mixalign.data.dataset import TaskDataset
from mixalign.errors import MixalignError
from mixalign.losses.linear_logprobs import compile_kernels
from mixalign.models.head import HEADS, use_head
from mixalign.models.precision import canonical
from mixalign.training.packing import why_not_packed
from mixalign.training.threads import usable_cpus

__all__ = [
    "Engine",
    "choose_layout",
    "choose_precision",
    "likely_layout",
    "cpu_multiplies_bf16",
    "deterministic",
    "prepare_model",
    "prepare_process",
    "rows_within",
]

log = logging.getLogger(__name__)

LAYOUTS: dict[str, Layout] = {"packed": pack, "padded": collate}

DETERMINISTIC = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8", "FLASH_ATTENTION_DETERMINISTIC": "1"}  # environment
SHORT = 48  # tokens a completion (with its share of the prompt) below which a CPU is faster on padded batches
LONG_WORK = 3e15  # floating-point operations of a training from which compilation pays on a CPU
WIDE = 256  # hidden size from which bfloat16 pays on a CPU that multiplies it in hardware


@dataclass(frozen=True)
class Engine:
    """Choices that change speed and memory, and nothing else beyond rounding.

    Attributes:
        layout: `packed` (no padding, prompts of pairs once), `padded`, or `auto`.
        compile: torch.compile of the layers' feed-forward parts and norms: `auto`, True or False.
        head: `chunked`, or `cce`: the kernels of the library cut-cross-entropy, for GPUs.
        gradient_checkpointing: computes every layer again in the backward pass: less memory, a third more time.
        allocator: asks glibc to keep freed memory, which a training takes again at the next step.
        threads: of torch on a CPU; None: torch's own number, but no more than the CPUs that the process may use.
        max_tokens: positions of one forward pass; a batch is split into as many micro-batches as that takes.
    """

    layout: str = "auto"
    compile: str | bool = "auto"
    head: str = "chunked"
    gradient_checkpointing: bool = False
    allocator: bool = True
    threads: int | None = None
    max_tokens: int | None = None

    def __post_init__(self) -> None:
        check_choice("engine.layout", self.layout, ("auto", *LAYOUTS))
        check_choice("engine.compile", self.compile, ("auto", True, False))
        check_choice("engine.head", self.head, HEADS)
        check_flag("engine.gradient_checkpointing", self.gradient_checkpointing)
        check_flag("engine.allocator", self.allocator)
        check_number("engine.threads", self.threads, 1, whole=True, null=True)
        check_number("engine.max_tokens", self.max_tokens, 1, whole=True, null=True)


def choose_layout(engine: Engine, model: nn.Module, datasets: Sequence[TaskDataset]) -> Layout:
    """The function that makes a batch of rows; says so once when a model cannot be packed.

    Raises:
        MixalignError: when `layout=packed` was asked for and this model cannot be packed.
    """
    if likely_layout(engine, datasets) is collate:
        return collate
    reason = why_not_packed(model, max(int(d.length_N.max()) for d in datasets))
    if reason is None:
        return pack
    if engine.layout == "packed":
        raise MixalignError(f"`engine.layout=packed`, but this model cannot be packed: {reason}. Use layout auto.")
    log.warning("Batches are padded, not packed: of this model, %s.", reason)
    return collate


def likely_layout(engine: Engine, datasets: Sequence[TaskDataset]) -> Layout:
    """The same for a model that can be packed."""
    padded = engine.layout == "padded" or (engine.layout == "auto" and _are_short(datasets))
    return collate if padded else pack


def rows_within(max_tokens: int, datasets: Sequence[TaskDataset], batch_size: int, world: int = 1) -> int:
    """The most rows of a micro-batch that keep it within `max_tokens` positions.

    Rows are dealt out by length, so that a micro-batch has its share of the global batch's tokens and at most one
    row more. The batch is taken to come from the task with the longest rows, three standard deviations long.

    Raises:
        MixalignError: when not even single rows fit.
    """
    lengths = [d.length_N for d in datasets]
    total = max(batch_size * x.mean() + 3 * batch_size**0.5 * x.std() for x in lengths)
    longest = max(int(x.max()) for x in lengths)
    share = batch_size // world
    for rows in (n for n in range(share, 0, -1) if share % n == 0):
        if total * rows / batch_size + (longest if rows > 1 else 0) <= max_tokens:
            return rows
    if longest <= max_tokens:
        return 1
    raise MixalignError(
        f"`engine.max_tokens` is {max_tokens}, but the longest row has {longest} tokens. Raise it, or lower "
        "`data.max_length`."
    )


def _are_short(datasets: Sequence[TaskDataset]) -> bool:
    """Whether per-segment calls would cost a CPU more than padding does."""
    if torch.cuda.is_available():
        return False
    length_N = np.concatenate([d.length_N / d.num_completions for d in datasets])
    return bool(length_N.mean() < SHORT)


def choose_precision(precision: str, model: Any) -> str:
    """Lightning's precision: `auto` is bf16-mixed where the hardware multiplies it and the model is wide enough."""
    if precision != "auto":
        return canonical(precision)
    if torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported() else "32-true"
    wide = model.config.get_text_config().hidden_size >= WIDE
    return "bf16-mixed" if wide and cpu_multiplies_bf16() else "32-true"


@cache
def cpu_multiplies_bf16() -> bool:
    """Whether the CPU has matrix products in bfloat16 (AMX)."""
    info = Path("/proc/cpuinfo")
    return info.is_file() and "amx_bf16" in info.read_text()


def prepare_model(model: Any, engine: Engine, tokens: float, training: bool = True) -> list[str]:
    """Applies the choices that concern a model, and names them.

    Args:
        tokens: positions that the model will see, to judge whether compilation pays.
        training: whether it is trained, or only read.
    """
    done = []
    work = (6.0 if training else 2.0) * tokens * sum(p.numel() for p in model.parameters())
    if engine.compile is True or (engine.compile == "auto" and work >= LONG_WORK):
        _compile_layers(model)
        done.append("layers compiled")
    if training and engine.gradient_checkpointing:
        core = model.get_base_model() if hasattr(model, "get_base_model") else model
        enable = (
            getattr(core, "activation_checkpointing_enable", None) or core.gradient_checkpointing_enable
        )  # old name
        enable({"use_reentrant": False})
        done.append("gradient checkpointing")
    return done


def _compile_layers(model: Any) -> None:
    """Compiles what lies between the matrix products and attention of every layer and of the head.

    Whole layers would be compiled anew for every packed length; these parts take any length.
    """
    core = model.get_base_model() if hasattr(model, "get_base_model") else model
    decoder = core.base_model
    layers = next((m for m in decoder.children() if isinstance(m, nn.ModuleList)), nn.ModuleList())
    # private in torch: without it, parts that are compiled for many widths fall back to plain Python
    torch._dynamo.config.cache_size_limit = max(64, torch._dynamo.config.cache_size_limit)
    parts = [part for layer in layers for part in layer.children() if "Attention" not in type(part).__name__]
    parts += [part for part in decoder.children() if "Norm" in type(part).__name__]
    for part in parts:
        part.forward = torch.compile(part.forward, dynamic=True)
    if layers:
        _compile_rotary(layers[0])
    compile_kernels()


def _compile_rotary(layer: nn.Module) -> None:
    """Compiles the rotary embedding, which each family's module keeps as a function."""
    family = sys.modules[type(layer).__module__]
    rotary = getattr(family, "apply_rotary_pos_emb", None)
    if rotary is not None and not hasattr(rotary, "_torchdynamo_orig_callable"):
        family.apply_rotary_pos_emb = torch.compile(rotary, dynamic=True)  # type: ignore[attr-defined]


def _hint_allocator(engine: Engine) -> None:
    """Keeps freed memory in the process and takes large blocks from it (glibc; nothing elsewhere).

    A training frees and takes the same blocks at every step; giving them back to the system costs a third of the
    time of a step on a CPU.
    """
    if not engine.allocator or not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for option, value in ((-1, 2**31 - 1), (-2, 2**26), (-4, 0)):  # trim threshold, top padding, number of mmaps
            mallopt(option, value)


@contextmanager
def deterministic(mode: bool | str) -> Iterator[None]:
    """Within, torch refuses (True) or names (`warn`) operations that may give other bits another time.

    Raises:
        MixalignError: for another mode, or naming the operation that torch refused.
    """
    check_choice("trainer.deterministic", mode, (True, False, "warn"))
    if mode is False:
        yield
        return
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark, unset = torch.backends.cudnn.benchmark, {name for name in DETERMINISTIC if name not in os.environ}
    os.environ |= {name: DETERMINISTIC[name] for name in unset}
    torch.use_deterministic_algorithms(True, warn_only=mode == "warn")
    torch.backends.cudnn.benchmark = False
    try:
        yield
    except RuntimeError as error:
        if "deterministic implementation" not in str(error):
            raise
        first = str(error).partition(", but you set")[0]
        raise MixalignError(f"{first}, but `trainer.deterministic=true` wants one. Set it to warn or false.") from error
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.backends.cudnn.benchmark = benchmark
        for name in unset:
            os.environ.pop(name, None)


def prepare_process(engine: Engine) -> None:
    """Applies the choices that hold for the whole process: allocator, threads and head."""
    _hint_allocator(engine)
    use_head(engine.head)
    if engine.threads:
        torch.set_num_threads(engine.threads)
    elif "OMP_NUM_THREADS" not in os.environ and usable_cpus() < torch.get_num_threads():
        torch.set_num_threads(usable_cpus())
