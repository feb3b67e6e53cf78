"""Lightning's words for precision, outside of its trainer."""

import torch

__all__ = ["autocast", "sum_dtype"]

MIXED = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}  # precisions that autocast


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """What Lightning's trainer puts around a forward pass in this precision."""
    return torch.autocast(device.type, MIXED.get(precision, torch.bfloat16), enabled=precision in MIXED)


def sum_dtype(device: torch.device | str) -> torch.dtype:
    """The widest float of a device."""
    return torch.float32 if torch.device(device).type == "mps" else torch.float64
