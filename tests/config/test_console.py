"""Lines on the terminal: what many runs of a sweep would say again is shown once, and counted."""

import logging
import os
import subprocess
import sys

import pytest

from mixalign.config.console import ConsoleHandler, show_counts
from mixalign.config.sweep_notes import shared_notes

WARNING = "Inside the warm-up are 4 of 4 steps, and much more stands in this line than a summary has room for, " * 2


@pytest.fixture
def log():
    log = logging.getLogger("of_a_run")
    log.propagate, handler = False, ConsoleHandler()
    log.addHandler(handler)
    yield log
    log.removeHandler(handler)


def test_a_sweep_shows_a_warning_once_and_counts_it(log, capsys):
    with shared_notes():
        for seed in range(3):
            log.warning("%s", WARNING)
            log.error("round %d", 0)
            log.warning("seed %d", seed)
        shown = capsys.readouterr().err
        show_counts()
    assert shown.count("warning: Inside") == 1
    assert shown.count("round 0") == 3, "only warnings are counted"
    assert all(f"warning: seed {seed}\n" in shown for seed in range(3))
    (end,) = capsys.readouterr().err.splitlines()
    assert end.startswith("shown once, and came 3 times in this sweep: Inside the warm-up are 4 of 4 steps, and")
    assert end.endswith(" ...")


def test_processes_of_a_sweep_count_together(capfd):
    """As the workers of a launcher do, which get the environment."""
    say = (
        "import logging; from mixalign.config.console import ConsoleHandler; log = logging.getLogger(); "
        "log.addHandler(ConsoleHandler()); log.warning('said by all')"
    )
    with shared_notes():
        for _ in range(2):
            subprocess.run([sys.executable, "-c", say], check=True, env=dict(os.environ), timeout=100)
        show_counts()
    lines = capfd.readouterr().err.splitlines()
    assert lines == ["warning: said by all", "shown once, and came 2 times in this sweep: said by all"]


def test_outside_of_a_sweep_all_are_shown(log, capsys):
    with shared_notes():
        pass
    for _ in range(2):
        log.warning("again")
    assert capsys.readouterr().err == "warning: again\n" * 2


@pytest.mark.long
def test_lightning_stays_quiet_where_it_is_imported_later():
    say = (
        "from mixalign.config.console import quiet_libraries; quiet_libraries(); import sys; "
        "assert 'lightning.pytorch' not in sys.modules; import lightning as L; "
        "L.Trainer(accelerator='cpu', logger=False, enable_checkpointing=False)"
    )
    done = subprocess.run(
        [sys.executable, "-c", say], check=True, env=dict(os.environ), timeout=100, capture_output=True
    )
    assert (done.stdout, done.stderr) == (b"", b"")
