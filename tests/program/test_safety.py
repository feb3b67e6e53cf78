"""What is loaded runs no code, what was not asked for is not fetched, and what is secret is not written."""

import ast
import json
import os
import pickle
import socket
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from safetensors.numpy import save_file

import mixalign
from mixalign.cli import _guarded
from mixalign.data.dataset import TaskDataset
from mixalign.data.mapped import load_arrays
from mixalign.errors import MixalignError
from mixalign.frozen.table import ScoreTable
from mixalign.models.tiny import TinyLlama
from mixalign.training.checkpoints import newest_checkpoint, why_unreadable
from tests.tiny_runs import train_from_overrides

PACKAGE = Path(mixalign.__file__).parent
SECRETS = {
    "HF_TOKEN": "hf_QmVlZmQ0c2VjcmV0MTIz",
    "WANDB_API_KEY": "0123456789abcdef0123456789abcdef01234567",
    "HUGGING_FACE_HUB_TOKEN": "hf_b3RoZXJTZWNyZXQ0NTY3",
}


class Evil:
    """Makes a folder when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.fixture
def evil(tmp_path) -> Evil:
    """Its mark is there when anybody has run it; that it works at all is tried first."""
    pickle.loads(pickle.dumps(Evil(tmp_path / "works")))
    assert (tmp_path / "works").is_dir()
    return Evil(tmp_path / "executed")


def pickles(evil: Evil, path: Path) -> list[Path]:
    """The forms in which pickled code may lie under the name of another file."""
    torch.save({"global_step": 1, "state_dict": evil}, path.with_suffix(".zip"))
    torch.save({"global_step": 1, "state_dict": evil}, path.with_suffix(".old"), _use_new_zipfile_serialization=False)
    path.with_suffix(".pickle").write_bytes(pickle.dumps(evil))
    with path.with_suffix(".npy").open("wb") as file:
        np.save(file, np.array([evil], dtype=object), allow_pickle=True)
    return [path.with_suffix(end) for end in (".zip", ".old", ".pickle", ".npy")]


def test_a_checkpoint_with_code_is_not_loaded(tiny, refuse, evil, tmp_path):
    for path in pickles(evil, tmp_path / "last"):
        assert why_unreadable(path) is not None
    path = tmp_path / "last.zip"
    said = f"`resume={path}` cannot be read: it holds pickled code or objects, which are not loaded. Give a checkpoint"
    assert refuse(tiny("mixer=uniform", f"resume={path}")).startswith(said)
    assert not evil.mark.exists()


def test_a_checkpoint_with_code_in_a_run_folder_is_skipped(evil, tmp_path, caplog):
    (tmp_path / "checkpoints").mkdir()
    for number, path in enumerate(pickles(evil, tmp_path / "last")):
        path.rename(tmp_path / "checkpoints" / f"{number}.ckpt")
    assert newest_checkpoint(tmp_path) is None
    assert caplog.text.count("cannot be read") == 4
    assert not evil.mark.exists()


def test_a_table_of_the_cache_cannot_carry_code(evil, tmp_path):
    for path in pickles(evil, tmp_path / "table"):
        with pytest.raises(MixalignError, match="is damaged"):
            ScoreTable.load(path, {})
        with pytest.raises(MixalignError, match="is damaged"):
            TaskDataset.load("task", path)
    assert not evil.mark.exists()


def test_a_table_has_numbers_only(tmp_path):
    """Even a whole safetensors file is refused when an entry is of another type than was asked for."""
    save_file({"row_id_N": np.zeros(3, np.uint8)}, tmp_path / "table", {"note": "{}"})
    with pytest.raises(MixalignError, match="damaged"):
        load_arrays(tmp_path / "table", "score table", "note", {"row_id_N": np.int64})


@cache
def calls() -> list[tuple[str, str, dict[str, object]]]:
    """Every call in the package: file, name, and keyword arguments that are constants."""
    found = []
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                constants = {k.arg: k.value.value for k in node.keywords if k.arg and isinstance(k.value, ast.Constant)}
                found.append((path.relative_to(PACKAGE).as_posix(), ast.unparse(node.func), constants))
    return found


def test_no_line_of_the_package_unpickles_a_file():
    loads = [(file, name, said) for file, name, said in calls() if name.split(".")[-1] in ("load", "loads", "fit")]
    unpickled = [(file, name) for file, name, _ in loads if "pickle" in name]
    assert unpickled == []
    torches = [(file, said) for file, name, said in loads if name in ("torch.load", "trainer.fit")]
    assert len(torches) > 2
    assert [file for file, said in torches if said.get("weights_only") is not True] == []
    assert [(file, name) for file, name, said in calls() if said.get("allow_pickle") or name in ("eval", "exec")] == []
    assert [(file, name) for file, name, said in calls() if said.get("trust_remote_code")] == []


@pytest.mark.long
def test_no_secret_is_written(cli, tiny, tmp_path):
    """Not into the run, the cache, or what is printed."""
    short = ("mixer=uniform", "specialists.train=never", "reference.sft_steps=0")
    settings = tiny(*short, f"cache_dir={tmp_path / 'cache'}")
    done = cli("train", *settings, f"run_dir={tmp_path / 'run'}", **SECRETS)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "train.log").is_file()
    files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert len(files) > 10
    for secret in SECRETS.values():
        assert [path for path, content in files.items() if secret.encode() in content] == []
        assert secret not in done.stdout + done.stderr
        assert [path for path in tmp_path.rglob("*") if secret in path.name] == []


@pytest.fixture
def calls_home(monkeypatch) -> list[object]:
    """What tries to reach another machine; it fails. Nothing says that this process should be offline."""
    tried: list[object] = []

    def refuse(*arguments, **options):
        tried.append(arguments[1:] or arguments)
        raise OSError("the network is closed")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    for name in ("create_connection", "getaddrinfo", "gethostbyname"):
        monkeypatch.setattr(socket, name, refuse)
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with pytest.raises(OSError, match="the network is closed"):
        socket.create_connection(("localhost", 1))
    with socket.socket() as one, pytest.raises(OSError, match="the network is closed"):
        one.connect(("localhost", 1))
    tried.clear()
    return tried


@pytest.mark.long
def test_a_training_on_local_files_reaches_for_nothing(tiny_local, calls_home, tmp_path):
    """A model, a tokenizer with a template, and rows of this disk; all stages."""
    tiny = TinyLlama(hidden_size=16, num_layers=1, num_heads=2, intermediate_size=32)
    tiny.build().save_pretrained(tmp_path / "model")
    tiny.tokenizer().save_pretrained(tmp_path / "model")
    rows = [{"prompt": [{"role": "user", "content": f"x{n}"}]} for n in range(20)]
    rows = [row | {k: [{"role": "assistant", "content": k}] for k in ("chosen", "rejected")} for row in rows]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = [text for text in tiny_local("mixer=ama_s") if not text.startswith("model.")]
    settings += ["model=pretrained", f"model.path={tmp_path / 'model'}", f"data.tasks.a.path={tmp_path / 'rows.jsonl'}"]
    settings += ["data.max_length=32", "micro_batch_size=null", f"cache_dir={tmp_path / 'cache'}"]
    train_from_overrides(settings, str(tmp_path / "run"))
    assert (tmp_path / "run" / "eval.json").is_file()
    assert {"reference", "scores", "specialists"} <= {path.name for path in (tmp_path / "cache").iterdir()}
    assert calls_home == []


def test_the_telemetry_of_libraries_is_off(monkeypatch):
    """The hub's library would send it with its requests."""
    for name in ("HF_HUB_DISABLE_TELEMETRY", "HF_HUB_DISABLE_PROGRESS_BARS", "HYDRA_FULL_ERROR"):
        monkeypatch.setenv(name, "")  # so that it is restored afterwards
        monkeypatch.delenv(name)
    assert _guarded("no such verb") == 1
    assert os.environ["HF_HUB_DISABLE_TELEMETRY"] == "1"
