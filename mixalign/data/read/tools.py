"""Tool calls and the tools that a row offers, in the one form that chat templates read."""

import json
from collections.abc import Mapping
from typing import Any

from mixalign.data.read.values import read_json, show, without_nulls
from mixalign.errors import MixalignError

__all__ = ["read_tools", "tool_calls"]

CALL = '{"name": "weather", "arguments": {"city": "Rome"}}'


def tool_calls(value: Any, where: str) -> list[dict[str, Any]]:
    """Calls as `[{"type": "function", "function": {"name": ..., "arguments": {...}}}]`.

    Args:
        value: such a list, one call, or either as JSON text; a call may be bare, `{"name": ..., "arguments": ...}`, and
            its arguments an object or the JSON text of one.
        where: begins every message.

    Raises:
        MixalignError: for a call without a name, or arguments that are no object.
    """
    calls = read_json(value) if isinstance(value, str) else value
    calls = [calls] if isinstance(calls, Mapping) else calls
    if not isinstance(calls, list | tuple):
        raise MixalignError(
            f"{where} is {show(value)}, but must be a list of calls such as {CALL}, or one as JSON text."
        )
    return [_call(call, f"call {number} of {where}") for number, call in enumerate(calls, 1)]


def _call(call: Any, where: str) -> dict[str, Any]:
    if not isinstance(call, Mapping):
        raise MixalignError(f"{where} is {show(call)}, but must be an object such as {CALL}.")
    call = without_nulls(call)
    if "function" not in call:  # bare
        inner = {key: call.pop(key) for key in ("name", "arguments") if key in call}
        call = {"type": "function", **call, "function": inner}
    function = call["function"]
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str) or not function["name"]:
        raise MixalignError(f"{where} has no name of a function: {show(call)}. It wants {CALL}.")
    return {**call, "function": {**function, "arguments": _arguments(function, where)}}


def _arguments(function: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The arguments as an object, which templates write as JSON: a text would be encoded twice."""
    given = function.get("arguments", {})
    found = read_json(given) if isinstance(given, str) else given
    if not isinstance(found, Mapping):
        raise MixalignError(
            f"{where}, of `{function['name']}`, has `arguments` {show(given)}, but they must be a JSON object, or one "
            "as text; {} where there are none."
        )
    arguments: dict[str, Any] = without_nulls(found)
    return arguments


def read_tools(value: Any) -> list[dict[str, Any]]:
    """A row's tools: a list of JSON schemas, each or all of them also as JSON text.

    Raises:
        MixalignError: when it is something else.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise MixalignError(f"`tools` is a text that is not JSON ({error}): {show(value)}.") from error
    if isinstance(value, list):
        value = [read_json(tool) if isinstance(tool, str) else tool for tool in value]
    if not isinstance(value, list) or not all(isinstance(tool, Mapping) for tool in value):
        raise MixalignError(f"`tools` is {show(value)}, but must be a list of JSON schemas, or such a list as text.")
    tools: list[dict[str, Any]] = without_nulls(value)
    return tools
