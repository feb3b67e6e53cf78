"""Fingerprints of models."""

import hashlib
import json

import torch

__all__ = ["weights_fingerprint"]


def weights_fingerprint(model: torch.nn.Module) -> str:
    """16 hexadecimal digits that change with any weight, buffer or setting of the model."""
    digest = hashlib.sha256()
    config = getattr(model, "config", None)
    if config is not None:
        keep = {k: v for k, v in config.to_dict().items() if not k.startswith("_") and k != "transformers_version"}
        digest.update(json.dumps(keep, sort_keys=True, default=str).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy() if flat.numel() else b"")
    return digest.hexdigest()[:16]
