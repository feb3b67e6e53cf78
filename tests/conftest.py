"""A small job that the trainings of the tests share: three generated tasks, scored, with made-up specialists."""

import base64
import hashlib
import io
import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from rich.console import Console
from torch import Tensor

from mixalign import bars, terminal
from mixalign.data.batches.collate import Layout, collate
from mixalign.data.batches.module import MixtureData
from mixalign.data.batches.sampler import MixtureSampler
from mixalign.data.dataset import TaskDataset
from mixalign.data.generated import generate
from mixalign.data.tokens.tokenise import tokenise
from mixalign.frozen.score import score_rows
from mixalign.mixers.fixed import Temperature
from mixalign.models.load import LoRA, add_lora
from mixalign.models.tiny import TinyLlama
from mixalign.objectives.base import Objective
from mixalign.objectives.dpo import DPO
from mixalign.objectives.sft import SFT
from mixalign.training.callbacks.mixing import Mixing
from mixalign.training.callbacks.task_log import TaskLog
from mixalign.training.callbacks.watched import Watched
from mixalign.training.fit import Fit, fit, make_trainer
from mixalign.training.module import AlignModule
from mixalign.training.optimizer import Optimizer

pytest_plugins = ["tests.tiny_runs"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A hang ends in minutes: `timeout` of pyproject.toml, and a little more for what takes long."""
    for item in items:
        if item.get_closest_marker("long") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(540))


ROWS = {"helpful": 60, "reverse": 40, "compare": 50}
TINY = TinyLlama(hidden_size=16, num_layers=1, num_heads=2, intermediate_size=32, max_positions=64)


class Recorder(L.Callback):
    """Keeps what a training did: one entry a micro-batch, and one an optimizer step."""

    def __init__(self, mixing: Mixing) -> None:
        self.mixing = mixing
        self.batches: list[SimpleNamespace] = []  # task_B, row_id_B, loss_B, ... of each micro-batch
        self.grads: list[dict[str, Tensor]] = []  # before clipping
        self.alphas: list[Tensor] = []  # the mixture after each update
        self.samples: list[Tensor] = []
        self._updates = 0
        self._first = 0  # step

    def on_train_start(self, trainer, pl_module) -> None:
        self._updates, self._first = self.mixing.updates, trainer.global_step  # those of a training that is resumed

    def on_before_optimizer_step(self, trainer, pl_module, optimizer) -> None:
        self.grads.append({n: p.grad.clone() for n, p in pl_module.model.named_parameters() if p.requires_grad})

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        kept = {k: v.detach().clone() for k, v in {**batch, **outputs}.items() if isinstance(v, Tensor)}
        self.batches.append(SimpleNamespace(step=trainer.global_step, **kept))
        if self._updates < self.mixing.updates:
            self._updates = self.mixing.updates
            self.alphas.append(self.mixing.mix.alpha_K.clone())
            self.samples.append(self.mixing.mix.sample_K.clone())

    def losses(self) -> dict[tuple[int, int], float]:
        """The loss of each drawn sample, by (optimizer step, row); a row is drawn at most once a step here."""
        out, step = {}, self._first
        for batch in self.batches:
            for row, loss in zip(batch.row_id_B.tolist(), batch.loss_B.tolist(), strict=True):
                out[step, row] = loss
            step = batch.step
        return out


@dataclass
class Run:
    """A finished training."""

    trainer: L.Trainer
    module: AlignModule
    data: MixtureData
    mixing: Mixing
    seen: Recorder

    def weights(self) -> dict[str, Tensor]:
        return {n: p.detach().clone() for n, p in self.module.model.named_parameters()}


@dataclass
class SmallJob:
    """Tokenised, scored tasks, and the model that every training of them starts from."""

    tasks: list[str]
    train: list[TaskDataset]
    validation: list[TaskDataset]
    objective: Objective
    model: Any
    lora: LoRA | None = None

    def start(self) -> Any:
        """A fresh copy of the starting model, with a fresh adapter where the job has one."""
        return add_lora(deepcopy(self.model), self.lora).train()

    def run(
        self,
        folder: Path,
        mixer: Any = None,
        *,
        steps: int = 6,
        batch_size: int = 12,
        micro: int | None = None,
        composition: str | None = None,
        seed: int = 0,
        val_every: int = 1000,
        eval_batch_size: int = 8,
        lr: float = 1e-2,
        optimizer: Optimizer | None = None,
        resume: Path | None = None,
        callbacks: Sequence[L.Callback] | Callable[[Mapping[str, Any]], Sequence[L.Callback]] = (),
        loggers: Sequence[Any] = (),
        history: Path | None = None,
        module_class: type[AlignModule] = AlignModule,
        live: Callable[..., Any] | None = None,
        model: Any = None,
        layout: Layout = collate,
        trainer_options: Mapping[str, Any] | None = None,
        mixing_class: Callable[..., Mixing] = Mixing,
        **module_options: Any,
    ) -> Run:
        """Trains for some steps. `callbacks` may be a function of {mixing, seen}, for those that need them."""
        mixer = mixer or Temperature(float("inf"))
        model = self.start() if model is None else model
        module = module_class(
            model,
            self.objective,
            self.tasks,
            optimizer or Optimizer(lr, warmup_steps=0),
            **{"descends_on": mixer.descends_on, "clip": mixer.clip} | module_options,
            live_reference=live and live(model),
        )
        rows_K = [len(d) for d in self.train]
        sampler = MixtureSampler(rows_K, batch_size, composition or mixer.composition, seed)
        data = MixtureData(self.train, self.validation, sampler, steps, eval_batch_size, layout)
        mixing = mixing_class(mixer, self.tasks, rows_K, history)
        seen = Recorder(mixing)
        more = callbacks({"mixing": mixing, "seen": seen}) if callable(callbacks) else callbacks
        options = {"accelerator": "cpu", "enable_progress_bar": False, **(trainer_options or {})}
        how = Fit(steps, batch_size, micro, val_every, options)
        trainer = make_trainer(how, folder, [mixing, seen, *more], loggers)
        fit(trainer, module, data, resume)
        return Run(trainer, module, data, mixing, seen)


def make_job(
    rows: Mapping[str, int] = ROWS,
    *,
    objective: Objective | None = None,
    validation_rows: int = 7,
    tiny: TinyLlama = TINY,
    dtype: torch.dtype = torch.float32,
    lora: LoRA | None = None,
    sharpen: float = 4.0,
) -> SmallJob:
    """Builds a job; `sharpen` scales the random weights up, so that losses and gradients are not all alike."""
    objective = objective or DPO(beta=0.5)
    tokenizer, model = tiny.tokenizer(), tiny.build().to(dtype)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight *= sharpen
    tables = {}
    for split in ("train", "validation"):
        tables[split] = []
        for task, number in rows.items():
            examples = generate(task, number if split == "train" else validation_rows, split, seed=0)
            table, _ = tokenise(examples, tokenizer, task=task, form=objective.form, max_length=32, source=split)
            if objective.uses_reference:
                table.attach("reference_logp", score_rows(model, table, {}).align(table))
            table.attach("specialist_loss", made_up_specialist(table, objective.form))
            tables[split].append(table)
    return SmallJob(list(rows), tables["train"], tables["validation"], objective, model, lora)


def made_up_specialist(table: TaskDataset, form: str) -> np.ndarray:
    """A loss for each row that depends on its content only; about one in three is above where training starts."""
    low, high = (0.2, 0.95) if form == "preference" else (2.0, 7.0)
    unit_N = (table.row_id_N % 1009) / 1009
    return (low + (high - low) * unit_N).astype(np.float32)


@pytest.fixture(scope="session")
def small_job() -> Callable[..., SmallJob]:
    """The function that builds a job."""
    return make_job


@pytest.fixture(scope="session")
def _dpo_job() -> SmallJob:
    return make_job()


@pytest.fixture
def dpo_job(_dpo_job: SmallJob) -> SmallJob:
    """Three preference tasks with reference scores and specialist losses; columns may be changed."""
    return deepcopy(_dpo_job)


@pytest.fixture(scope="session")
def _sft_job() -> SmallJob:
    return make_job(objective=SFT())


@pytest.fixture
def sft_job(_sft_job: SmallJob) -> SmallJob:
    """The chosen answers of the same tasks, for supervised training."""
    return deepcopy(_sft_job)


class Hub(BaseHTTPRequestHandler):
    """What the Hugging Face hub answers: a folder's files as a repository, or a status with the hub's own code."""

    answers: dict[str, Any]  # repository -> folder, or (status, code)
    asked: list[str]  # paths
    made: dict[str, Any]  # repository -> how it was asked for
    pushed: dict[str, Any]  # file -> its content; None: deleted
    refuses: int = 0  # the status of what is sent, in place of 200

    def do_HEAD(self) -> None:
        self.asked.append(self.path)
        repo, _, file = self.path.partition("?")[0].strip("/").partition("/resolve/")
        file = file.partition("/")[2]  # behind the revision
        answer = self.answers.get(repo, (404, "EntryNotFound" if repo.startswith("api/") else "RepoNotFound"))
        if isinstance(answer, Path):
            answer = (200, (answer / file).read_bytes()) if (answer / file).is_file() else (404, "EntryNotFound")
        status, content = answer
        self.send_response(status)
        self.send_header("X-Repo-Commit", "c" * 40)
        if status == 200:
            self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
        else:
            self.send_header("X-Error-Code", content)
            content = b""
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    do_GET = do_HEAD

    def do_POST(self) -> None:
        """Takes repositories and commits; every file is sent within its commit, as small ones are."""
        self.asked.append(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        answer: Any = {}
        status = self.refuses or 200
        if self.path == "/api/repos/create":
            made = json.loads(body)
            self.made[f"{made['organization']}/{made['name']}"] = made
            answer = {"url": f"{self.url}/{made['organization']}/{made['name']}"}
        elif "/preupload/" in self.path:
            named = [file["path"] for file in json.loads(body)["files"]]
            answer = {"files": [{"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in named]}
        elif "/commit/" in self.path:
            for line in map(json.loads, body.decode().splitlines()):
                if line["key"] == "file":
                    self.pushed[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                elif line["key"] == "deletedFile":
                    self.pushed[line["value"]["path"]] = None
            answer = {"commitOid": "c" * 40, "commitUrl": f"{self.url}/org/name/commit/{'c' * 40}"}
        content = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Iterator[type[Hub]]:
    """A hub on this machine, with an empty cache; `close` makes it one that cannot be reached."""
    from huggingface_hub import constants, hf_api

    handler = type("OwnHub", (Hub,), {"answers": {}, "asked": [], "made": {}, "pushed": {}})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()

    def close() -> None:
        server.shutdown()
        server.server_close()

    url = f"http://127.0.0.1:{server.server_port}"
    handler.url, handler.close, handler.cache = url, close, tmp_path / "hub"
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(hf_api.api, "endpoint", url)
    monkeypatch.setattr("transformers.utils.hub._hf_api", None, raising=False)  # it remembers the address
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    yield handler
    close()


@pytest.fixture
def small_disk(tmp_path):
    """A file system of one megabyte."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = (
        shutil.which("mount")
        and not subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)], capture_output=True, timeout=200
        ).returncode
    )
    if not mounted:
        pytest.skip("mounting a small disk needs rights that this user lacks")
    yield place  # tables of it may still be mapped
    subprocess.run(["umount", "--lazy", str(place)], check=True, timeout=200)


@pytest.fixture
def power_cut(monkeypatch):
    """A context in which a generalist's training is cut off behind an optimizer step, once that is logged."""

    @contextmanager
    def after(step: int) -> Iterator[None]:
        log = TaskLog.on_train_batch_end

        def cut(self, trainer, *rest):
            log(self, trainer, *rest)
            if trainer.global_step == step and any(isinstance(one, Watched) for one in trainer.callbacks):
                raise RuntimeError("power cut")

        with monkeypatch.context() as patch:
            patch.setattr(TaskLog, "on_train_batch_end", cut)
            with pytest.raises(RuntimeError, match="power cut"):
                yield

    return after


class Screen(io.StringIO):
    """A terminal that keeps what is written to it."""

    def isatty(self) -> bool:
        return True

    def shown(self) -> str:
        """Everything that was written, without colours and moves of the cursor."""
        return re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", self.getvalue())


@pytest.fixture
def screen(monkeypatch) -> Screen:
    """A terminal of 80 columns in place of standard error, with bars that are drawn at every call."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(bars, "REFRESH", 0.0)
    console = Console(file=(made := Screen()), width=80, markup=False, highlight=False)
    monkeypatch.setattr(terminal, "shared_console", lambda: console)
    return made
