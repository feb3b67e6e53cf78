"""A stop ends a stage at once, waits for a training to save, and leaves the process's handlers as they were."""

import logging
import os
import pickle
import signal
import threading
import time

import pytest

from mixalign import stopping
from mixalign.errors import Stopped

CODES = [(signal.SIGTERM, 143), (signal.SIGINT, 130)]


def send(number: int) -> None:
    os.kill(os.getpid(), number)
    time.sleep(0.01)  # Python runs a handler between two instructions


@pytest.fixture
def heeded():
    with stopping.heed():
        yield


@pytest.mark.parametrize(("number", "code"), CODES)
def test_a_stage_is_left_at_once_and_named(heeded, number, code):
    with (
        stopping.stage("", "the cache stays", "Start again."),
        stopping.stage("the scoring"),
        pytest.raises(Stopped) as caught,
    ):
        send(number)
    name = signal.Signals(number).name
    assert caught.value.text == f"stopped by {name} in the scoring; the cache stays. Start again."
    assert caught.value.code == code
    assert (copy := pickle.loads(pickle.dumps(caught.value))).text == caught.value.text
    assert copy.code == code  # it may come from another process


def test_a_stop_between_stages_names_none(heeded):
    with stopping.stage("the start"), stopping.stage("", "the cache stays"):
        with stopping.stage("the scoring"):
            pass
        with pytest.raises(Stopped) as caught:
            send(signal.SIGTERM)
    assert caught.value.text == "stopped by SIGTERM; the cache stays."


def test_a_training_hears_it_and_leaves_by_itself(heeded, caplog):
    stopping.hold()
    send(signal.SIGTERM)
    send(signal.SIGTERM)
    assert stopping.requested()
    assert caplog.messages == ["SIGTERM: saving after this step"]
    stopping.release()
    with pytest.raises(Stopped) as caught:
        stopping.check()
    assert caught.value.code == 143


def test_a_second_interrupt_does_not_wait(heeded, caplog):
    stopping.hold()
    send(signal.SIGINT)
    with pytest.raises(Stopped) as caught:
        send(signal.SIGINT)
    assert caplog.messages == ["SIGINT: saving after this step (again: at once)"]
    assert (caught.value.text, caught.value.code) == ("stopped by SIGINT; what it had not saved is lost.", 130)


def test_the_handlers_are_put_back():
    before = [signal.getsignal(number) for number, _ in CODES]
    with pytest.raises(Stopped), stopping.heed(), stopping.heed():
        send(signal.SIGTERM)
    assert [signal.getsignal(number) for number, _ in CODES] == before
    assert not stopping.requested()


def test_a_thread_has_no_signals():
    heard = []

    def work() -> None:
        with stopping.heed():
            heard.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(60)
    assert heard == [signal.getsignal(signal.SIGTERM)]


def wait() -> None:
    for _ in range(1000):
        time.sleep(0.01)


def test_the_time_of_a_command(heeded):
    with pytest.raises(Stopped) as caught, stopping.stage("the scoring"), stopping.limit(60, time.time() - 59.9):
        wait()
    assert (caught.value.text, caught.value.code) == (
        "stopped after `max_time` (60 s), not finished, in the scoring.",
        0,
    )


def test_a_command_within_its_time_is_left_alone(heeded):
    with stopping.limit(60, time.time()), stopping.limit(None, 0):
        pass
    time.sleep(0.05)
    stopping.check()


def test_a_training_saves_when_the_time_is_over(heeded, caplog):
    caplog.set_level(logging.WARNING)
    stopping.hold()
    with stopping.limit(1, time.time() - 2):
        while not stopping.requested():
            time.sleep(0.01)
        assert stopping.stopped("saved x").text == "stopped after `max_time` (1 s), not finished; saved x."
    assert caplog.messages == ["after `max_time` (1 s): saving after this step"]


class Dying:
    """Is told to stop inside of its destructor."""

    def __init__(self, number):
        self.number = number

    def __del__(self):
        send(self.number)


@pytest.mark.parametrize(("number", "code"), CODES)
def test_a_stop_inside_of_a_destructor_is_not_lost(heeded, number, code, capsys):
    """Python cannot raise there: it prints the exception and goes on."""

    def work():
        Dying(number)
        for _ in range(500):
            time.sleep(0.01)

    with stopping.stage("the scoring"), pytest.raises(Stopped) as caught:
        work()
    assert (caught.value.code, "in the scoring" in caught.value.text) == (code, True)
    assert "ignored" not in capsys.readouterr().err


def test_other_exceptions_of_destructors_are_shown_as_before(heeded, monkeypatch):
    seen = []
    monkeypatch.setattr(stopping._now, "hook", seen.append)

    class Failing:
        def __del__(self):
            raise ValueError("no")

    Failing()
    assert [str(what.exc_value) for what in seen] == ["no"]
