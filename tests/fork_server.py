"""Runs `mixalign` commands in forks of a process that has loaded the libraries: seconds less for each command.

Reads one JSON line a command: argv, cwd, env, and the files `out`, `err`, `pid` and `code`, which it fills. A command
has a session of its own, as if a shell had started it, and ends as a process of Python ends.
"""

import json
import os
import signal
import sys
from pathlib import Path


def serve() -> int:
    """Ends when its input does; in the fork of a command, with that command's exit status."""
    load()
    print("ready", flush=True)
    for line in sys.stdin:
        command = json.loads(line)
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            if (child := os.fork()) == 0:
                return run(command)
            write(command["pid"], str(child))
            write(command["code"], str(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])))
            os._exit(0)
    return 0


def load() -> None:
    import datasets  # noqa: F401
    import peft  # noqa: F401
    import transformers.models.llama.modeling_llama  # noqa: F401

    import mixalign.verbs.train  # noqa: F401

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the processes that wait for commands


def run(command: dict) -> int:
    os.setsid()
    for name, number in (("out", 1), ("err", 2)):
        os.dup2(os.open(command[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.chdir(command["cwd"])
    os.environ.clear()
    os.environ.update(command["env"])
    sys.path[:0] = command["env"].get("PYTHONPATH", "").split(":")
    sys.argv = ["mixalign", *command["argv"]]
    from mixalign.cli import main

    main()
    return 0


def write(path: str, text: str) -> None:
    part = Path(path + ".part")
    part.write_text(text)
    part.replace(path)


if __name__ == "__main__":
    sys.exit(serve())
