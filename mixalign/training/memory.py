"""Memory: what is free, and an upper estimate of what a training or a scoring takes by the tokens of a forward pass.

The estimate is made from shapes alone: in float32 it is between once and five times what the forward pass of five
families of transformers keeps, masks of an adapter's dropout among it (the base model has none).

Measured on a CPU as the peak of a process over steps in float32, a token, in brackets the estimate: SmolLM2-135M with
an adapter 2.6 MB (3.7), with dropout in it 3.4 (4.6); a Llama of 0.9 M weights 67 kB (111), with an adapter 94 (115),
with dropout 115 (142), with plain attention over 1,024 tokens 342 (423). In 16 bits it is less.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mixalign.data.batches.collate import Layout
from mixalign.data.batches.pack import ROUND, pack
from mixalign.data.dataset import TaskDataset
from mixalign.errors import MixalignError
from mixalign.losses.linear_logprobs import BLOCK, CHUNK, GPU_CHUNK, WIDE
from mixalign.models.load import LoRA
from mixalign.models.shapes import Shapes
from mixalign.training.control_groups import OWN, ROOT, folders_of, text_of
from mixalign.training.engine import Engine

if TYPE_CHECKING:  # a plan asks for memory, and need not wait for Lightning
    from mixalign.data.batches.module import MixtureData

__all__ = ["FLOAT", "Footprint", "footprint", "free_memory", "most_tokens", "tokens_of_longest", "too_large"]

MEMINFO = Path("/proc/meminfo")
FLOAT = 4  # bytes; passes in 16 bits keep some numbers in 32
# numbers kept for backward, over those that go into and come out of the matrix products, with room for what is there
# for a moment, and for what allocators hold and nobody uses; likewise of an adapter's dropout, with its masks
KEPT, OF_DROPOUT = 3.0, 0.75
STATE = 16  # bytes beside a trained number: its gradient, AdamW's two means, and a copy while they are used
SCORES = 4  # numbers of a pair of tokens and a head that plain attention keeps
PROCESS = 2**29  # bytes of libraries, buffers and what allocators cannot use


@dataclass(frozen=True)
class Footprint:
    """What a model takes, in bytes.

    Attributes:
        fixed: however many tokens there are: weights, gradients, states of the optimizer.
        trained: numbers that are trained.
        token: what a training keeps of one token of a forward pass.
        read: what one token takes where nothing is kept for a backward pass.
        head: logits of the words, made in chunks.
    """

    fixed: float
    trained: int
    token: float
    read: float
    head: float

    def training(self, tokens: int) -> float:
        """Bytes of a training whose forward passes have so many tokens."""
        return self.fixed + self.head + self.token * tokens

    def reading(self, tokens: int) -> float:
        """Bytes of a validation or scoring whose forward passes have so many tokens, during a training."""
        return self.fixed + self.head + self.read * tokens


def footprint(
    model: Shapes, lora: LoRA | None, engine: Engine, device: str, longest: int, copies: int = 1
) -> Footprint:
    """What a training of a causal language model takes.

    Args:
        device: `cpu` or `cuda`.
        longest: tokens of the longest sequence, for attention that keeps its scores (`eager`).
        copies: of the weights that are there at once.
    """
    depth, hidden, words, size = model.depth, model.hidden, model.words, model.size
    numbers = KEPT * sum(model.widths) + (0 if lora is None else _beside(model.widths, lora))
    numbers += SCORES * depth * model.heads * longest
    kept = numbers / depth
    numbers = depth * hidden + kept if engine.gradient_checkpointing else numbers
    trained = _trained(model, lora)
    beside = FLOAT * trained if lora is not None else 0  # numbers of the adapter
    chunk = max(CHUNK, GPU_CHUNK // words) if device == "cuda" else CHUNK
    by_words = 3 * BLOCK if lora is None and words >= WIDE else 0
    return Footprint(
        fixed=copies * size + beside + STATE * trained + size / 2 + PROCESS,  # half: weights in 16 bits, for the passes
        trained=trained,
        token=FLOAT * (numbers + by_words),
        read=FLOAT * (kept + hidden),
        head=FLOAT * words * (3 * chunk + hidden),
    )


def most_tokens(layout: Layout, datasets: Sequence[TaskDataset], batch_size: int, rows: int) -> int:
    """Tokens of the longest forward pass to be expected of a micro-batch of so many rows.

    Rows are dealt out by length, so that a micro-batch has its share of the global batch's tokens and at most one row
    more; the batch is taken to come from the task with the longest rows, three standard deviations long. Padded, all
    rows are as long as the longest.
    """
    if layout is not pack:
        return tokens_of_longest(layout, datasets, rows)
    lengths = [d.length_N for d in datasets if len(d)]
    total = max(batch_size * x.mean() + 3 * batch_size**0.5 * x.std() for x in lengths)
    longest = max(int(x.max()) for x in lengths)
    share = total * rows / batch_size + (longest if rows > 1 else 0)
    return _rounded(min(max(share, longest), rows * longest))


def tokens_of_longest(layout: Layout, datasets: Sequence[TaskDataset], rows: int) -> int:
    """Tokens of a forward pass over the longest rows of all tables."""
    if layout is pack:
        return _rounded(max(int(np.sort(d.length_N)[-rows:].sum()) for d in datasets if len(d)))
    widths = [int((d.length_NS[:, :1] + d.length_NS[:, 1:]).max()) * d.num_completions for d in datasets if len(d)]
    return rows * max(widths)


def free_memory(device: str, meminfo: Path = MEMINFO, own: Path = OWN, root: Path = ROOT) -> float | None:
    """Bytes that this process can still get on the GPU, or on a CPU from the machine and its control groups.

    Returns:
        None where the system does not tell.
    """
    if device == "cuda":
        return float(torch.cuda.mem_get_info()[0])
    fields = dict(line.split(":", 1) for line in text_of(meminfo).splitlines() if ":" in line)
    try:
        free = [1024.0 * int(fields["MemAvailable"].split()[0])]
    except (KeyError, ValueError):
        return None
    left = (_left_in(folder) for folder in folders_of("memory", own, root))
    return max(0.0, min([*free, *(bytes_ for bytes_ in left if bytes_ is not None)]))


def _left_in(folder: Path) -> float | None:
    """Bytes up to the limit of a control group, not counting files that are only kept at hand; None: no limit."""
    limit, used = text_of(folder / "memory.max"), text_of(folder / "memory.current")
    if not limit:
        limit, used = text_of(folder / "memory.limit_in_bytes"), text_of(folder / "memory.usage_in_bytes")
    stat = dict(line.split(" ", 1) for line in text_of(folder / "memory.stat").splitlines() if " " in line)
    try:
        return float(limit) - float(used) + float(stat.get("inactive_file", 0))
    except ValueError:
        return None  # `max`, or no such file


def _beside(widths: Sequence[int], lora: LoRA) -> float:
    """Numbers of one token that an adapter keeps beside those of the base model."""
    return 2 * lora.r * len(widths) + (OF_DROPOUT * sum(widths) if lora.lora_dropout else 0.0)


def _trained(model: Shapes, lora: LoRA | None) -> int:
    """Numbers that are trained: all, or those of adapters and of modules that are trained whole."""
    if lora is None:
        return sum(model.numbers.values())
    whole = [f".{name}." for name in lora.modules_to_save or ()]
    saved = (number for name, number in model.numbers.items() if any(part in f".{name}" for part in whole))
    return lora.r * sum(model.widths) + sum(saved)


def _rounded(tokens: float) -> int:
    return ROUND * ceil(tokens / ROUND)


def too_large(error: RuntimeError, trainer: Any, data: "MixtureData") -> MixalignError | None:
    """What to lower when memory ran out; None for another error. Torch has one type for GPUs, and words for a CPU."""
    if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
        return None
    rows = data.sampler.batch_size // (trainer.world_size * trainer.accumulate_grad_batches)
    longest = max(int(d.length_N.max()) for d in data.train)
    return MixalignError(
        f"Memory ran out with {rows} rows in a forward pass, the longest of {longest} tokens. Lower `micro_batch_size` "
        "or set `engine.max_tokens` (the training stays the same), set `engine.gradient_checkpointing=true`, lower "
        "`data.max_length`, or train an adapter: `lora=default`."
    )
