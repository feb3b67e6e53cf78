"""Several processes that do one job: how they meet before it begins.

Started by torchrun, srun or another launcher, they all run the same command and meet here. Otherwise the one process
that there is starts the others (Lightning would start them in the middle of the job, by running the whole command
again, which in a sweep is the sweep). Either way they are connected before the job begins, so that all its stages share
the work: the first process decides what is to be made and writes it, and the others wait for it.
"""

import atexit
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import timedelta
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

import torch
import torch.distributed as dist
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment

from mixalign import stopping
from mixalign.config.console import quiet_libraries
from mixalign.config.settings import RunSettings
from mixalign.errors import MixalignError
from mixalign.together.agree import agree, is_connected, is_first
from mixalign.together.children import disconnect, started_others
from mixalign.together.trainer import probe_trainer
from mixalign.training.engine import deterministic

__all__ = ["on_all_ranks"]

P = ParamSpec("P")
T = TypeVar("T")

LEFT_BEHIND = ("LOCAL_RANK", "NODE_RANK", "RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "PL_GLOBAL_SEED")
"""What Lightning and we write into the environment of a job, and the next job of a sweep must not find there."""


def on_all_ranks(job: Callable[Concatenate[RunSettings, P], T]) -> Callable[Concatenate[RunSettings, P], T]:
    """Makes a function of the settings run on as many processes as `trainer` asks for.

    Its further arguments are those of the first process everywhere. What it returns is the first process's business:
    the processes that it started end with it. They find the function by its module and name, so it must be one of a
    module.

    Raises:
        MixalignError: when the processes cannot be had, one of them dies or hangs, or memory runs out.
    """

    @wraps(job)
    def everywhere(settings: RunSettings, /, *args: P.args, **kwargs: P.kwargs) -> T:
        quiet_libraries()  # here for the workers of a sweep's launcher as well
        with ExitStack() as stack:
            stack.enter_context(_memory_named())
            stack.enter_context(deterministic(settings.trainer.deterministic))
            if not is_connected():
                settings = _connect(settings, f"{job.__module__}:{job.__name__}", stack)
            warnings.filterwarnings("ignore", message=".*sync_dist=True.*")  # what is logged is summed already
            if not is_first():
                settings = _be_quiet(settings)
            args, kwargs = agree((args, kwargs))
            try:
                return job(settings, *args, **kwargs)
            except Exception:
                if is_connected():
                    stopping.check()  # the connection broke because another process stopped first
                raise

    return everywhere


@contextmanager
def _memory_named() -> Iterator[None]:
    """Says what to lower when memory runs out in a stage; torch has one type for GPUs, and words for a CPU."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        known = isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)
        if not known:
            raise
        first_line = str(error).strip().partition("\n")[0]
        raise MixalignError(
            f"Memory ran out before or after the training of the run: {first_line}. Lower `eval_batch_size`, "
            "which is that of scoring as well, or `micro_batch_size`: the numbers stay the same. What is in the cache "
            "is not made again."
        ) from error


def _connect(settings: RunSettings, job: str, stack: ExitStack) -> RunSettings:
    """Brings the processes of the job together.

    Args:
        job: `module:name` of the function that the others are to run.
        stack: gets what must be undone after the job.

    Returns:
        The settings, with the numbers of processes and machines that a launcher has started.
    """
    settings = _take_from_launcher(settings)
    patience = timedelta(minutes=settings.trainer.timeout)
    trainer = probe_trainer(settings.trainer)
    if trainer is None or trainer.world_size == 1:
        stack.enter_context(_environment_put_back())
        return settings
    cluster: Any = trainer.strategy.cluster_environment  # type: ignore[attr-defined]
    _choose_device(trainer.strategy, cluster.local_rank())
    if cluster.creates_processes_externally:
        os.environ.setdefault("MASTER_ADDR", cluster.main_address)
        os.environ.setdefault("MASTER_PORT", str(cluster.main_port))
        dist.init_process_group(rank=cluster.global_rank(), world_size=cluster.world_size(), timeout=patience)
        atexit.register(disconnect)  # not earlier: the jobs of a sweep meet once, since the launcher's address is one
    elif trainer.num_nodes > 1:
        raise MixalignError(
            f"`trainer.num_nodes` is {trainer.num_nodes}: on several machines a launcher must start the processes, "
            "`srun` or `torchrun --nnodes`. docs/many_machines.md has the commands."
        )
    else:
        stack.enter_context(_environment_put_back())
        stack.enter_context(started_others(trainer.world_size, job, settings.plain, patience))
    return settings


def _choose_device(strategy: Any, local_rank: int) -> None:
    device = strategy.parallel_devices[local_rank]
    if device.type == "cuda":
        torch.cuda.set_device(device)


def _take_from_launcher(settings: RunSettings) -> RunSettings:
    """The settings with `trainer.devices` and `num_nodes` as torchrun or SLURM started them, unless set by hand."""
    trainer = settings.trainer
    if trainer.devices not in (1, "auto") or trainer.num_nodes != 1:
        return settings
    size, on_machine = 1, 1
    if dist.is_torchelastic_launched():
        size, on_machine = _count("WORLD_SIZE"), _count("LOCAL_WORLD_SIZE")
    elif SLURMEnvironment.detect():
        size = _count("SLURM_NTASKS")
        on_machine = size // _count("SLURM_NNODES")
    if size == 1:
        return settings
    trainer = replace(trainer, devices=on_machine, num_nodes=size // on_machine)
    started = {"devices": trainer.devices, "num_nodes": trainer.num_nodes}
    plain = {**settings.plain, "trainer": {**settings.plain["trainer"], **started}}
    return replace(settings, trainer=trainer, plain=plain)


def _count(name: str) -> int:
    return int(os.environ.get(name, 1))


@contextmanager
def _environment_put_back() -> Iterator[None]:
    """Leaves the group of processes and puts the environment back, for the next job of a sweep."""
    before = {name: os.environ.get(name) for name in LEFT_BEHIND}
    try:
        yield
    finally:
        disconnect()
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def _be_quiet(settings: RunSettings) -> RunSettings:
    """The first process speaks for all."""
    warnings.simplefilter("ignore")
    logging.getLogger("mixalign").setLevel(logging.ERROR)
    return replace(settings, progress=False)
