"""Errors of the configuration library in the words of this one."""

import errno
import re

from hydra.errors import HydraException, MissingConfigException
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from mixalign.config.elsewhere import CONF, key_of_group, nearest_key
from mixalign.errors import MixalignError, did_you_mean
from mixalign.training.trainer_arguments import why_not

__all__ = ["user_message"]


IN_THE_WAY = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.EISDIR)
BLOCKED = (*IN_THE_WAY, errno.ENAMETOOLONG, errno.ELOOP, errno.EIO, errno.ESTALE)  # of a name, or a disk that fails
INTERNAL = ("full_key:", "object_type=", "To append to your config use")


def user_message(error: BaseException) -> str | None:
    """What to tell the user, or None when the error is not one that a user can mend."""
    if isinstance(error, MixalignError):
        return str(error)
    if isinstance(error, YAMLError):
        return f"A configuration file is not valid: {error}"
    if isinstance(error, MissingConfigException) and error.options:
        return _no_choice(error)
    if isinstance(error, HydraException | OmegaConfBaseException):
        cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException | YAMLError) else None
        return (
            _unknown(error, cause)
            or _no_entry(str(error))
            or _several_values(str(error))
            or "\n".join(filter(None, [_first(error), _first(cause) if cause else None]))
        )
    if isinstance(error, OSError) and error.errno in BLOCKED and error.filename:
        return f"{error.filename} cannot be used ({error.strerror}). Choose another place, or change what is there."
    if isinstance(error, ValueError) and _module_of(error).startswith("hydra."):
        return f"The command line or a configuration file cannot be read: {error}"
    return None


def _no_entry(text: str) -> str | None:
    """What to tell of an entry of a list of them, `data=[hh,ultrafedback]`, for which Hydra names no others."""
    found = re.search(r"Could not load '(\w+)/([^']+)'", text)
    known = [path.stem for path in sorted(CONF.glob(f"{found[1]}/[!_]*.yaml"))] if found else []
    if not found or not known:
        return None
    return f"`{found[1]}` has no entry `{found[2]}`. {did_you_mean(found[2], known)} All: {', '.join(known)}."


def _several_values(text: str) -> str | None:
    """What to tell of values with commas between them without `-m`."""
    found = re.search(r"Ambiguous value for argument '([^']+)'", text)
    if not found:
        return None
    key, _, value = found[1].partition("=")
    return f"`{found[1]}`: add -m for a run with each of these; a list is written `{key}=[{value}]`, in quotes."


def _no_choice(error: MissingConfigException) -> str:
    """What to tell of a file that a group of the configuration does not have."""
    group, _, choice = (error.missing_cfg_file or "").rpartition("/")
    options = sorted(name for name in error.options or () if not name.startswith("_"))
    hint = did_you_mean(choice, options)
    others = "" if hint.startswith("Known") else f" Known: {', '.join(options)}."
    return f"There is no `{group}={choice}`. {hint}{others}"


def _module_of(error: BaseException) -> str:
    """Of the function that raised it."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace.tb_frame.f_globals.get("__name__", "") if trace else ""


def _first(error: BaseException) -> str:
    """The message without the internals that follow it, and without the advice to add a misspelt key by `+`."""
    text = str(error).partition("Config search path:")[0]
    lines = [line for line in text.splitlines() if not line.strip().startswith(INTERNAL)]
    return "\n".join(lines).strip()


def _unknown(error: BaseException, cause: BaseException | None) -> str | None:
    """What to tell of a key that the configuration does not have; None for other errors."""
    found = re.search(r"Key '([^']+)' is not in struct", f"{error} {cause}")
    parent = getattr(cause, "parent_node", None) or getattr(error, "parent_node", None)
    if not found or parent is None:
        return None
    key, place, nodes = found.group(1), parent._get_full_key(""), {str(name): parent._get_node(name) for name in parent}
    if place == "trainer" and (why := why_not(key)):
        return why
    hint = key_of_group(place, key, nodes, nodes) if place else nearest_key(key, nodes, nodes)
    return f"`{place}.{key}` is no setting. {hint}" if place else f"`{key}` is no setting. {hint}"
