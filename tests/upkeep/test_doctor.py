"""What is found on a machine, and what is said to be amiss."""

import socket
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest

from mixalign.upkeep import doctor
from mixalign.verbs import doctor as verb


def found(tmp_path, **more):
    return {one.what: one for one in doctor.examine(tmp_path, tmp_path, network=False, **more)}


def test_everything_is_looked_at(tmp_path):
    looked = found(tmp_path)
    assert {"python", "mixalign", "libraries", "extras", "CPU", "memory", "cache", "runs", "hub", "W&B"} <= {*looked}
    assert "torch 2" in looked["libraries"].found
    assert looked["libraries"].advice == ""


def test_a_library_that_is_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "NAMED", ("torch", "no-such-library"))
    assert found(tmp_path)["libraries"].advice == "pip install no-such-library"


def test_a_disk_and_a_memory_that_are_nearly_full(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda place: type("", (), {"free": 1e9}))
    monkeypatch.setattr("mixalign.training.memory.free_memory", lambda device: 1e9)
    looked = found(tmp_path)
    assert "mixalign cache --remove" in looked["cache"].advice
    assert "end other programs" in looked["memory"].advice


def test_a_place_that_this_user_may_not_write_to(tmp_path, monkeypatch):
    monkeypatch.setattr("mixalign.files.may_write", lambda path: False)
    looked = found(tmp_path / "not" / "there")
    assert "name another `cache_dir`" in looked["cache"].advice
    assert "name another `run_dir`" in looked["runs"].advice
    assert "(not there yet)" in looked["cache"].found


def test_more_threads_than_cpus(tmp_path, monkeypatch):
    monkeypatch.setattr("mixalign.training.threads.usable_cpus", lambda: 0)
    assert "set it to 0" in found(tmp_path)["CPU"].advice


class _Refuses(BaseHTTPRequestHandler):
    def do_HEAD(self):
        self.send_error(403)

    def log_message(self, *arguments):
        pass


def test_a_hub_that_answers_with_a_refusal_is_there():
    with HTTPServer(("127.0.0.1", 0), _Refuses) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        assert doctor._why_unreachable(f"http://127.0.0.1:{server.server_port}") is None
        server.shutdown()


def test_a_hub_that_is_not_there():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    assert "refused" in str(doctor._why_unreachable(address))
    assert doctor._why_unreachable("no address")


@pytest.mark.parametrize(
    ("variables", "says"),
    [({"WANDB_MODE": "offline"}, "offline by WANDB_MODE"), ({"WANDB_API_KEY": "x"}, "an account")],
)
def test_trackers(tmp_path, monkeypatch, variables, says):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    looked = found(tmp_path)["W&B"]
    assert says in looked.found
    assert looked.advice == ""
    assert "x" not in looked.found.split()  # a key is never shown


def test_the_verb_counts_what_is_amiss_and_fits_the_terminal(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["mixalign", "--no-network", "--cache", str(tmp_path)])
    monkeypatch.setattr(doctor, "NAMED", ("no-such-library",))
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("COLUMNS", "80")
    verb.main()
    out = capsys.readouterr().out
    assert "! pip install no-such-library" in out
    assert "to look at, marked by !" in out
    assert max(map(len, out.splitlines())) <= 80 or str(tmp_path) in out
