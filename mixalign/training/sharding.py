"""Parameters that are spread over processes (FSDP2), and put together again; the same work on every process."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.checkpoint.state_dict_loader import load as load_parts
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import distribute_tensor

from mixalign.errors import MixalignError
from mixalign.files import replacing
from mixalign.models.dropout import as_configured
from mixalign.training.checkpoints import REST

__all__ = ["FullySharded", "is_sharded", "load_weights", "save_model", "shard", "whole"]

WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)


class FullySharded(ModelParallelStrategy):
    """FSDP2 over all processes: each keeps its part of every parameter, gradient and optimizer state.

    Lightning's own (2.6.6) restores a checkpoint after `on_fit_start`, where callbacks act on what was restored, and
    asks a folder for the frozen weights that ours do not hold, also with `strict_loading=False`
    (https://github.com/Lightning-AI/pytorch-lightning/issues/20274). Here weights, callbacks and data are restored when
    they are for every other strategy, and the optimizer as soon as there is one.

    Args:
        save_distributed_checkpoint: whether a checkpoint is a folder in which each process writes its own part, and
            not one file that the first process writes. Such a run cannot be resumed by another strategy.
    """

    def __init__(self, save_distributed_checkpoint: bool = False) -> None:
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=save_distributed_checkpoint)
        self._resumed: Path | None = None

    @property
    def restore_checkpoint_after_setup(self) -> bool:
        return False

    def setup_environment(self) -> None:
        self._data_parallel_size = self.num_nodes * self.num_processes  # `auto` would be the number of machines
        super().setup_environment()

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any | None = None) -> None:
        """A folder is written beside its place, like a file, so that no new part lies among old ones."""
        if not self._save_distributed_checkpoint:
            super().save_checkpoint(checkpoint, filepath, storage_options)
            return
        with replacing(Path(filepath)) if self.is_global_zero else nullcontext(Path(filepath)) as part:
            super().save_checkpoint(checkpoint, part, storage_options)  # all take the first one's path
            self.barrier()
        self.barrier()

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        path = self._resumed = Path(self.broadcast(checkpoint_path))
        assert self.lightning_module is not None
        load_weights(self.lightning_module, path)
        rest = torch.load(path / REST if path.is_dir() else path, map_location="cpu", weights_only=True)
        return {key: value for key, value in rest.items() if key not in ("state_dict", "optimizer_states")}

    def setup(self, trainer: Any) -> None:
        super().setup(trainer)
        path, self._resumed = self._resumed, None
        module = self.lightning_module
        if path is None or module is None or not self.optimizers:
            return
        if path.is_file():
            super().load_checkpoint(path, weights_only=True)
            return
        (optimizer,) = self.optimizers
        state = {"optimizer_0": get_optimizer_state_dict(module, optimizer)}
        load_parts(state, checkpoint_id=path)
        set_optimizer_state_dict(module, optimizer, optim_state_dict=state["optimizer_0"])


def shard(module: nn.Module, model: Any, mesh: DeviceMesh) -> None:
    """Spreads the parameters of a LightningModule over a mesh: each layer by itself, and the rest as one.

    The module is the root, and not the model in it, because our forward pass calls parts of the model and reads the
    weights of its head. So everything is gathered around the module's two steps, which FSDP does not know by itself.

    Args:
        model: the model of transformers inside the module, with or without PEFT adapters.

    Raises:
        MixalignError: when the model does not say which parts are its layers.
    """
    core = model.get_base_model() if hasattr(model, "get_base_model") else model
    kinds = set(getattr(core, "_no_split_modules", None) or ())
    layers = [part for part in core.modules() if type(part).__name__ in kinds]
    if not layers:
        raise MixalignError(
            f"{type(core).__name__} does not name its layers (`_no_split_modules`), so its parameters cannot be "
            "spread over processes. Use `trainer=ddp`."
        )
    for part in layers:
        fully_shard(part, mesh=mesh)
    fully_shard(module, mesh=mesh)
    for step in ("training_step", "validation_step"):
        register_fsdp_forward_method(module, step)


def is_sharded(module: nn.Module) -> bool:
    """Whether parameters of the module are spread over processes."""
    return any(isinstance(part, FSDPModule) for part in module.modules())


def save_model(model: Any, tokenizer: Any, folder: Path, first: bool = True) -> None:
    """Writes a folder that AutoModelForCausalLM (or AutoPeftModelForCausalLM) and AutoTokenizer load.

    Args:
        first: whether this is the process that writes; all of them must call, to put spread weights together.
    """
    parts: dict[str, Any] = {}
    if is_sharded(model):
        state = get_model_state_dict(model, options=WHOLE)
        names: dict[int, str] = {}
        for name, parameter in model.named_parameters(remove_duplicate=False) if first else ():
            state[name] = state[names.setdefault(id(parameter), name)]  # tied weights are one tensor again
        parts["state_dict"] = state
    if first:
        with as_configured(model):
            model.save_pretrained(folder, **parts)
        if hasattr(model, "peft_config"):
            (folder / "README.md").unlink(missing_ok=True)  # of PEFT: a form to fill in, with the base's place here
        tokenizer.save_pretrained(folder)


def load_weights(module: nn.Module, path: Path) -> None:
    """Takes the trained weights of a checkpoint, which is a file, or a folder with the parts of all processes.

    Raises:
        MixalignError: when the folder was written by DeepSpeed.
    """
    if not is_sharded(module):
        if path.is_dir():
            raise MixalignError(f"{path} can be read by the strategy that wrote it only: set `export=last`.")
        module.load_state_dict(torch.load(path, map_location="cpu", weights_only=True)["state_dict"], strict=False)
        return
    trained = {name for name, p in module.named_parameters() if p.requires_grad}
    parts: dict[str, Any] = {name: part for name, part in get_model_state_dict(module).items() if name in trained}
    if path.is_dir():
        load_parts({"state_dict": parts}, checkpoint_id=path)  # in place
        return
    weights = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    with torch.no_grad():
        for name, part in parts.items():
            part.copy_(distribute_tensor(weights[name].to(part.device), part.device_mesh, part.placements))


def whole(value: Tensor) -> Tensor:
    """A tensor that may be spread over processes, put together."""
    return value.full_tensor() if hasattr(value, "full_tensor") else value
