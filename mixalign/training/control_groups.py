"""Linux's control groups: what a container or a job's slice may use, which libraries do not look at."""

from pathlib import Path

__all__ = ["OWN", "ROOT", "folders_of", "text_of"]

ROOT = Path("/sys/fs/cgroup")
OWN = Path("/proc/self/cgroup")


def folders_of(controller: str, own: Path = OWN, root: Path = ROOT) -> list[Path]:
    """The folders of this process's groups, each with those that it lies in; of version 1 the controller's as well.

    Args:
        controller: `cpu` or `memory`.
        own: the file that names the control group of this process.
        root: where control groups are.
    """
    folders = [root, root / controller]
    for line in text_of(own).splitlines():
        place = line.rpartition(":")[2].strip("/")
        for tree in (root, root / controller):
            inner = tree / place
            folders += [inner, *(parent for parent in inner.parents if parent.is_relative_to(tree))]
    return list(dict.fromkeys(folders))


def text_of(path: Path) -> str:
    """What a file says; empty where there is none."""
    try:
        return path.read_text().strip()
    except OSError:
        return ""
