"""Several processes that do one job together: how they start, meet, agree and end.

Started by torchrun, srun or another launcher, they all run the same command and meet here. Otherwise the one process
that there is starts the others (Lightning would start them in the middle of the job, by running the whole command
again, which in a sweep is the sweep). Either way they are connected before the job begins, so that all its stages share
the work: the first process decides what is to be made and writes it, and the others wait for it.
"""

import atexit
import logging
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import timedelta
from functools import wraps
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import lightning as L
import numpy as np
import torch
import torch.distributed as dist
from lightning.fabric.plugins.environments import SLURMEnvironment
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig, OmegaConf, open_dict
from torch import Tensor, nn

from mixalign.data.collate import Layout
from mixalign.data.dataset import TaskDataset
from mixalign.errors import MixalignError, Stopped
from mixalign.pipelines.build import build, plain, register_resolvers
from mixalign.pipelines.console import quiet_libraries
from mixalign.scoring.score import score_rows
from mixalign.scoring.table import ScoreTable
from mixalign.training.engine import deterministic

__all__ = [
    "agree",
    "alone",
    "decide",
    "is_first",
    "made_once",
    "on_all_ranks",
    "rank",
    "score_on_ranks",
    "total",
    "trainer_options",
    "wait",
    "world",
]

log = logging.getLogger(__name__)

T = TypeVar("T")

OWN = ("LOCAL_RANK", "NODE_RANK", "RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "PL_GLOBAL_SEED")
"""What Lightning and we write into the environment of a job, and the next job of a sweep must not find there."""
PORT = "MIXALIGN_PORT"  # tells a process that another one of us started it, and where to meet
GRACE = 10.0  # seconds in which a broken connection should be noticed
HERE, LAST_LINES = "127.0.0.1", 15
AGAIN = "Start the same command again: it goes on from the last checkpoint."


def rank() -> int:
    """Number of this process among those of the job; 0 is the first."""
    return dist.get_rank() if _connected() else 0


def world() -> int:
    """Number of processes of the job."""
    return dist.get_world_size() if _connected() else 1


def is_first() -> bool:
    return rank() == 0


def wait() -> None:
    """Until every process has come here."""
    if world() > 1:
        dist.barrier()


def agree(value: T) -> T:
    """The first process's value, on all of them."""
    if world() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def decide(work: Callable[[], T]) -> T:
    """Has the first process do something alone, and gives what comes of it, also a MixalignError, to all."""
    value: Any = None
    if is_first():
        try:
            value = work()
        except MixalignError as error:
            value = error
    value = agree(value)
    if isinstance(value, MixalignError):
        raise value
    return value


def total(value: Tensor) -> Tensor:
    """The sum over all processes, in place."""
    if world() > 1:
        dist.all_reduce(value)
    return value


def _connected() -> bool:
    return dist.is_available() and dist.is_initialized()


def on_all_ranks(job: Callable[..., T]) -> Callable[..., T]:
    """Makes a function of the configuration run on as many processes as `trainer` asks for.

    Its further arguments are those of the first process everywhere. What it returns is the first process's business:
    the processes that it started end with it.
    """

    @wraps(job)
    def everywhere(cfg: DictConfig, *arguments: Any) -> T:
        quiet_libraries()  # here for the workers of a sweep's launcher as well
        with ExitStack() as stack:
            stack.enter_context(_memory_named())
            stack.enter_context(deterministic(cfg.trainer.get("deterministic", False)))
            if not _connected():
                _connect(cfg, job, arguments, stack)
            warnings.filterwarnings("ignore", message=".*sync_dist=True.*")  # what is logged is summed already
            if not is_first():
                _be_quiet(cfg)
            return job(cfg, *agree(arguments))

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
        raise MixalignError(
            f"Memory ran out before or after the training of the run: {_first_line(error)}. Lower `eval_batch_size`, "
            "which is that of scoring as well, or `micro_batch_size`: the numbers stay the same. What is in the cache "
            "is not made again."
        ) from error


def _patience(cfg: DictConfig) -> timedelta:
    """How long a process waits for another one."""
    minutes = cfg.trainer.get("timeout", 30)  # get: the config.yaml of an older run
    if not isinstance(minutes, int | float) or minutes <= 0:
        raise MixalignError(f"`trainer.timeout` is {minutes!r}, but must be a number of minutes above 0.")
    return timedelta(minutes=minutes)


def _connect(cfg: DictConfig, job: Callable[..., Any], arguments: Sequence[Any], stack: ExitStack) -> None:
    """Brings the processes of the job together; what must be undone after it goes on the stack."""
    if PORT in os.environ:
        store = dist.TCPStore(HERE, _given(PORT), is_master=False)
        _meet(store, _given("RANK"), _given("WORLD_SIZE"), _patience(cfg))
        return
    _take_from_launcher(cfg)
    trainer = _trainer(cfg)
    if trainer is None or trainer.world_size == 1:
        stack.enter_context(_own_environment())
        return
    cluster: Any = trainer.strategy.cluster_environment  # type: ignore[attr-defined]
    _choose_device(trainer.strategy, cluster.local_rank())
    if cluster.creates_processes_externally:
        os.environ.setdefault("MASTER_ADDR", cluster.main_address)
        os.environ.setdefault("MASTER_PORT", str(cluster.main_port))
        dist.init_process_group(rank=cluster.global_rank(), world_size=cluster.world_size(), timeout=_patience(cfg))
        atexit.register(_disconnect)  # not earlier: the jobs of a sweep meet once, since the launcher's address is one
    elif trainer.num_nodes > 1:
        raise MixalignError(
            f"`trainer.num_nodes` is {trainer.num_nodes}: on several machines a launcher must start the processes, "
            "`srun` or `torchrun --nnodes`. The README has the commands."
        )
    else:
        stack.enter_context(_own_environment())
        stack.enter_context(_others(trainer.world_size, cfg, job, arguments))


def _meet(store: Any, number: int, size: int, patience: timedelta) -> None:
    # without a named backend there are two where there are GPUs, so that tensors of the host can travel as well
    dist.init_process_group(store=store, rank=number, world_size=size, timeout=patience)


def _disconnect() -> None:
    if _connected():
        dist.destroy_process_group()


def _choose_device(strategy: Any, local_rank: int) -> None:
    device = strategy.parallel_devices[local_rank]
    if device.type == "cuda":
        torch.cuda.set_device(device)


def _given(name: str) -> int:
    return int(os.environ.get(name, 1))


def _take_from_launcher(cfg: DictConfig) -> None:
    """Sets `trainer.devices` and `num_nodes` to what torchrun or SLURM have started, unless they were set by hand."""
    trainer = cfg.trainer
    if trainer.get("devices", 1) not in (1, "auto") or trainer.get("num_nodes", 1) != 1:
        return
    size, own = 1, 1
    if dist.is_torchelastic_launched():
        size, own = _given("WORLD_SIZE"), _given("LOCAL_WORLD_SIZE")
    elif SLURMEnvironment.detect():
        size = _given("SLURM_NTASKS")
        own = size // _given("SLURM_NNODES")
    if size > 1:
        with open_dict(trainer):
            trainer.devices, trainer.num_nodes = own, size // own


def _trainer(cfg: DictConfig) -> L.Trainer | None:
    """A trainer with the processes and the launcher that a training would have; None: plainly one process."""
    options = {k: v for k, v in plain(cfg.trainer).items() if k in ("accelerator", "devices", "num_nodes", "strategy")}
    if options.get("devices", 1) == 1 and options.get("num_nodes", 1) == 1:
        return None
    silent = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trainer = L.Trainer(**_with_strategy(options), **silent)  # type: ignore[arg-type]
            cluster = getattr(trainer.strategy, "cluster_environment", None)
            if cluster is not None:
                cluster.validate_settings(trainer.num_devices, trainer.num_nodes)
    except (TypeError, ValueError, RuntimeError, MisconfigurationException) as error:
        raise MixalignError(f"Lightning refuses the settings of `trainer`: {error}") from error
    if trainer.world_size > 1 and cluster is None:
        raise MixalignError(f"`trainer.strategy` {options['strategy']} has no processes of its own. Use ddp or fsdp2.")
    if type(trainer.strategy.launcher).__name__ == "_MultiProcessingLauncher":
        raise MixalignError(
            f"`trainer.strategy` is {options['strategy']}, whose processes end with every training, so that stages "
            "cannot share them. Use `trainer=ddp`."
        )
    return trainer


def _with_strategy(options: dict[str, Any]) -> dict[str, Any]:
    if isinstance(options.get("strategy"), dict):
        options["strategy"] = build(options["strategy"])
    return options


def trainer_options(cfg: DictConfig) -> dict[str, Any]:
    """The arguments of Lightning's Trainer that the configuration names, for one training.

    A verb that is not run on all ranks trains on one process, whatever `trainer` asks for.
    """
    options = plain(cfg.trainer)
    for own in ("timeout", "deterministic"):
        options.pop(own, None)
    if "DeepSpeed" in str(options.get("strategy")) and cfg.export == "best":
        raise MixalignError("DeepSpeed's checkpoints are folders that only DeepSpeed reads: set `export=last`.")
    if not _connected() and (trainer := _trainer(cfg)) is not None and trainer.world_size > 1:
        options |= {"devices": 1, "num_nodes": 1, "strategy": "auto"}
    return _with_strategy(options)


@contextmanager
def _own_environment() -> Iterator[None]:
    """Leaves the group of processes and puts the environment back, for the next job of a sweep."""
    before = {name: os.environ.get(name) for name in OWN}
    try:
        yield
    finally:
        _disconnect()
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


@contextmanager
def _others(size: int, cfg: DictConfig, job: Callable[..., Any], arguments: Sequence[Any]) -> Iterator[None]:
    """Starts the other processes of this machine on the same job, and ends them with it, however it ends."""
    store, patience = dist.TCPStore(HERE, 0, is_master=True, wait_for_workers=False), _patience(cfg)
    with TemporaryDirectory(prefix="mixalign-") as name:
        folder = Path(name)
        task = (job.__module__, job.__name__, OmegaConf.to_container(cfg, resolve=True), tuple(arguments))
        (folder / "task").write_bytes(pickle.dumps(task))
        os.environ["LOCAL_RANK"] = "0"  # tells Lightning to start nobody
        children = [_start(folder, number, size, store.port) for number in range(1, size)]
        try:
            with _watched(children, folder):
                for number, child in enumerate(children, 1):
                    while not store.check([f"started {number}"]):
                        if child.poll() is not None:
                            raise RuntimeError(f"process {number} did not start")
                        time.sleep(0.1)
                _meet(store, 0, size, patience)
                yield
                for child in children:
                    child.wait(patience.total_seconds())
        except Exception as error:
            _blame(error, children, folder)
            raise
        finally:
            for child in children:
                child.kill()
                child.wait()


@contextmanager
def _watched(children: Sequence[subprocess.Popen], folder: Path) -> Iterator[None]:
    """Ends this process when another one has died and it does not notice, because it computes or waits for a GPU."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(1):
            dead = next((number for number, child in enumerate(children, 1) if child.poll()), 0)
            if not dead or over.wait(GRACE):
                continue
            print(f"error: {_last_words(dead, children[dead - 1], folder)}", file=sys.stderr, flush=True)
            for child in children:
                child.kill()
            shutil.rmtree(folder, ignore_errors=True)
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        over.set()


def _start(folder: Path, number: int, size: int, port: int) -> subprocess.Popen:
    env = os.environ | {"RANK": str(number), "LOCAL_RANK": str(number), "WORLD_SIZE": str(size), PORT: str(port)}
    code = "import sys; from mixalign.pipelines.ranks import take_part; take_part(sys.argv[1])"
    with (folder / f"{number}.log").open("wb") as said:
        command = [sys.executable, "-c", code, str(folder)]
        return subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT)


def _blame(error: Exception, children: Sequence[subprocess.Popen], folder: Path) -> None:
    """When another process failed first, which here is a broken connection: says what it said, or raises its error."""
    if isinstance(error, MixalignError):
        return
    for number, child in enumerate(children, 1):
        with suppress(subprocess.TimeoutExpired):
            child.wait(5)
        if child.returncode:
            said = _last_words(number, child, folder)
            if child.returncode < 0 or (folder / f"{number}.error").is_file():
                raise MixalignError(said) from None
            error.add_note(said)
    if re.search("time(d )?out", str(error), re.IGNORECASE):
        raise MixalignError(
            f"A process has waited longer than `trainer.timeout` for another one ({_first_line(error)}). Raise it if "
            f"they do such different work; else look for the one that hangs. {AGAIN}"
        ) from error


def _last_words(number: int, child: subprocess.Popen, folder: Path) -> str:
    """Of a process that has ended before its work was done."""
    told = folder / f"{number}.error"
    if told.is_file():
        return told.read_text()
    if child.returncode < 0:
        name = signal.Signals(-child.returncode).name
        return f"Process {number} was ended by {name}: by somebody, or by the system when memory ran out. {AGAIN}"
    lines = (folder / f"{number}.log").read_text(errors="replace").splitlines()[-LAST_LINES:]
    return "\n".join([f"process {number} ended with {child.returncode}, and said at last:", *lines])


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


def take_part(folder: str) -> None:
    """What a process does that the first one has started."""
    number, first = int(os.environ["RANK"]), os.getppid()
    threading.Thread(target=_end_with, args=(first, folder), daemon=True).start()
    register_resolvers()
    module, name, settings, arguments = pickle.loads((Path(folder) / "task").read_bytes())
    job = getattr(import_module(module), name)
    quiet_libraries()  # takes seconds, in which the first process shall not wait for us yet
    dist.TCPStore(HERE, _given(PORT), is_master=False).set(f"started {number}", "")
    try:
        job(OmegaConf.create(settings), *arguments)
    except MixalignError as error:
        (Path(folder) / f"{number}.error").write_text(str(error))
        raise
    except Stopped:
        pass
    except Exception:
        time.sleep(2)  # most likely the first process is gone: then the thread above ends this one, and tidies up
        raise
    finally:
        _disconnect()
        if os.getppid() != first:
            shutil.rmtree(folder, ignore_errors=True)


def _end_with(parent: int, folder: str) -> None:
    """Ends this process when the one that started it is gone, and removes what that one could not."""
    while os.getppid() == parent:
        time.sleep(1)
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)


def _be_quiet(cfg: DictConfig) -> None:
    """The first process speaks for all."""
    cfg.progress = False
    warnings.simplefilter("ignore")
    logging.getLogger("mixalign").setLevel(logging.ERROR)


@contextmanager
def made_once(path: Path, locks: Path) -> Iterator[bool]:
    """Whether a path of a cache is still to be made; every process hears the same, and leaves when it is made.

    Of several runs that need the same, one makes it and the others wait: the first process holds a lock.

    Args:
        locks: folder of the lock files.
    """
    if agree(path.exists()):
        yield False
        return
    with ExitStack() as stack:
        told = False
        while not agree(not is_first() or _try_lock(locks / path.parent.name / path.name, stack)):
            if not told:
                log.info("waiting for another run, which makes %s", path)
            told = True
            time.sleep(1)
        yield not agree(path.exists())
        wait()


@contextmanager
def alone(lock: Path) -> Iterator[None]:
    """Waits until no other run holds a lock file, and holds it; for work of one process."""
    with ExitStack() as stack:
        while not _try_lock(lock, stack):
            time.sleep(1)
        yield


def _try_lock(path: Path, stack: ExitStack) -> bool:
    """Takes a lock until the stack unwinds or the process ends; False when another process has it."""
    try:
        import fcntl
    except ImportError:  # Windows: two runs may make the same thing, and the later one replaces it by its like
        return True
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return False
    stack.enter_context(file)
    return True


def score_on_ranks(
    model: nn.Module,
    dataset: TaskDataset,
    recipe: dict[str, Any],
    batch_size: int,
    layout: Layout,
    precision: str,
    on_batch: Callable[[int], None] = lambda rows: None,
) -> ScoreTable:
    """`score_rows` by all processes, each with a share of the batches; every one gets the whole table.

    The batches are those that one process would make, so that the numbers do not depend on how many there are.
    """
    if world() == 1:
        return score_rows(model, dataset, recipe, batch_size, layout, precision, on_batch)
    order_N = np.argsort(-dataset.length_N, kind="stable")
    batches = np.split(order_N, range(batch_size, len(order_N), batch_size))
    own_M = np.concatenate([order_N[:0], *batches[rank() :: world()]])
    part = score_rows(
        model, _rows(dataset, own_M), {}, batch_size, layout, precision, lambda rows: on_batch(rows * world())
    )
    logp_NS = torch.zeros(len(dataset), dataset.num_completions, dtype=torch.float64)
    logp_NS[own_M] = torch.from_numpy(part.logp_NS)
    return ScoreTable(dataset.row_id_N, total(logp_NS).numpy(), recipe)


def _rows(dataset: TaskDataset, row_M: np.ndarray) -> TaskDataset:
    """Some rows of a table, in a given order, without its columns."""
    arrays = dataset.length_NS[row_M], dataset.row_id_N[row_M], dataset.start_N[np.append(row_M, -1)]
    return TaskDataset(dataset.task, dataset.ids_T, dataset.supervised_T, *arrays)
