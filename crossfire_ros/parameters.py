"""ROS parameters, made from :mod:`.settings`: one default, one explanation, one range for each."""

from __future__ import annotations

import dataclasses
import difflib
import sys
import textwrap
from collections.abc import Callable, Sequence
from typing import Any

import yaml
from rcl_interfaces.msg import (
    FloatingPointRange,
    IntegerRange,
    ParameterDescriptor,
    SetParametersResult,
)
from rclpy.exceptions import InvalidParameterValueException
from rclpy.node import Node
from rclpy.parameter import Parameter

from crossfire_core.errors import ConfigError
from crossfire_ros.settings import PREFIXES, NodeConfig, Settings, settings_from

_MIN_INT, _MAX_INT, _MAX_FLOAT = -(2**63), 2**63 - 1, sys.float_info.max


def is_live(name: str) -> bool:
    """Whether a parameter may change while the node is active."""
    if name.startswith("tracking."):
        return True
    known = {f.name: f for f in dataclasses.fields(NodeConfig)}
    return name in known and bool(known[name].metadata.get("live"))


def declare(node: Node) -> None:
    """Declare every parameter, with its explanation and range.

    Raises:
        ConfigError: the parameters file holds a value of the wrong type or out of its range.
    """
    for prefix in PREFIXES:
        for f in _scalars(prefix):
            name = prefix + f.name
            try:
                node.declare_parameter(name, _plain(f.default), _descriptor(f))
            except InvalidParameterValueException as error:
                raise ConfigError(f"{name}: {error}") from error
    read(node)


def guard(
    node: Node,
    judge: Callable[[list[Parameter]], SetParametersResult],
    take: Callable[[list[Parameter]], None],
) -> None:
    """Have changes judged, and taken over once nobody else objects to them.

    Args:
        node: whose parameters change.
        judge: whether they may.
        take: called with those that have changed.
    """
    if hasattr(node, "add_post_set_parameters_callback"):
        node.add_on_set_parameters_callback(judge)
        node.add_post_set_parameters_callback(take)
        return

    def judge_and_take(changed: list[Parameter]) -> SetParametersResult:
        verdict = judge(changed)
        if verdict.successful:
            take(changed)
        return verdict

    node.add_on_set_parameters_callback(judge_and_take)  # Humble knows of no later moment


def read(node: Node) -> Settings:
    """The present parameters.

    Raises:
        ConfigError: one is of the wrong type or out of its range.
    """
    values = {
        name: _taken(name, parameter.value)
        for prefix in PREFIXES
        for name, parameter in _own(node, prefix).items()
    }
    return settings_from(values)


def unknown(node: Node) -> list[str]:
    """What was given to a node that has no such parameter, each with a hint for people."""
    own = [prefix + f.name for prefix in PREFIXES for f in _scalars(prefix)]
    # rclpy keeps what it was given to itself, and says nothing about what it leaves out.
    given = getattr(node, "_parameter_overrides", {})
    strange = [n for n in given if not node.has_parameter(n) and not n.startswith("qos_overrides.")]
    return [_with_suggestion(name, own) for name in sorted(strange)]


def _with_suggestion(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, 1)
    return f"{name} (is {close[0]} meant?)" if close else name


def judge(parameters: list[Parameter], base: Settings, locked: bool) -> tuple[Settings, str]:
    """Whether parameters may be set.

    Args:
        parameters: the requested ones.
        base: what holds now.
        locked: whether only those count that can change while the node works.

    Returns:
        The settings with them, and an empty string or the reason for a refusal.
    """
    own = {p.name: _taken(p.name, p.value) for p in parameters if _belongs(p.name)}
    if locked:
        fixed = [name for name in own if not is_live(name)]
        if fixed:
            return base, f"{', '.join(fixed)} can change only while the node is unconfigured"
    try:
        return settings_from(own, base), ""
    except ConfigError as error:
        return base, str(error)


def result(reason: str) -> SetParametersResult:
    """The answer to a request to set parameters; an empty reason is consent."""
    return SetParametersResult(successful=not reason, reason=reason)


def _own(node: Node, prefix: str) -> dict[str, Parameter]:
    names = [prefix + f.name for f in _scalars(prefix)]
    return {name: node.get_parameter(name) for name in names}


def _belongs(name: str) -> bool:
    room, _, last = name.rpartition(".")
    prefix = f"{room}." if room else ""
    return prefix in PREFIXES and last in {f.name for f in _scalars(prefix)}


def _scalars(prefix: str) -> list[dataclasses.Field[Any]]:
    """The settings that a ROS parameter can hold; a list is one of words."""
    return [
        f
        for f in dataclasses.fields(PREFIXES[prefix])
        if isinstance(f.default, (bool, int, float, str, tuple))
    ]


def _plain(value: Any) -> Any:
    """ROS's arrays and our tuples as lists."""
    return value if isinstance(value, str) or not isinstance(value, Sequence) else list(value)


def _taken(name: str, value: Any) -> Any:
    """A parameter's value; an empty list in a parameters file comes out of ROS as nothing."""
    lists = [prefix + f.name for prefix in PREFIXES for f in _scalars(prefix) if f.default == ()]
    return [] if value is None and name in lists else _plain(value)


def _descriptor(f: dataclasses.Field[Any]) -> ParameterDescriptor:
    """What `ros2 param describe` and sliders show.

    Types are left open so that `1` passes for `1.0`; what ROS lets pass, :func:`judge` looks at.
    """
    metadata = dict(f.metadata)
    descriptor = ParameterDescriptor(description=metadata["help"], dynamic_typing=True)
    descriptor.additional_constraints = _limits(metadata)
    low, high = metadata.get("min"), metadata.get("max")
    if isinstance(f.default, bool) or (low is None and high is None):
        return descriptor
    if isinstance(f.default, int):
        low, high = _MIN_INT if low is None else low, _MAX_INT if high is None else high
        descriptor.integer_range = [IntegerRange(from_value=int(low), to_value=int(high))]
    else:
        low, high = -_MAX_FLOAT if low is None else low, _MAX_FLOAT if high is None else high
        descriptor.floating_point_range = [
            FloatingPointRange(from_value=float(low), to_value=float(high))
        ]
    return descriptor


def _limits(metadata: dict[str, Any]) -> str:
    low, high = metadata.get("min"), metadata.get("max")
    limits = [f"at least {low}"] if low is not None else []
    limits += [f"at most {high}"] if high is not None else []
    limits += (
        [f"one of {', '.join(map(str, metadata['choices']))}"] if "choices" in metadata else []
    )
    return ", ".join(limits)


def explained_yaml() -> str:
    """Every parameter with its default, explanation and range: ``config/localize.yaml``."""
    lines = [_YAML_HEAD]
    for prefix in PREFIXES:
        indent = "    "
        if prefix:
            lines.append(f"\n    {prefix.rstrip('.')}:")
            indent += "  "
        for f in _scalars(prefix):
            lines.append(_explained(f, indent, prefix == "tracking."))
    return "\n".join(lines) + "\n"


_YAML_HEAD = """\
# Parameters of the localization node: every one, with its default.
#
# Copy this file, keep what you change, and start with
#   ros2 launch crossfire_ros localize.launch.py map:=$PWD/room.map params_file:=$PWD/your.yaml
# Those marked (live) can be changed while the node runs: ros2 param set /crossfire_localization ...
/**:
  ros__parameters:"""


def _explained(f: dataclasses.Field[Any], indent: str, tracking: bool) -> str:
    metadata = dict(f.metadata)
    live = bool(metadata.get("live")) or tracking
    text = metadata["help"][0].upper() + metadata["help"][1:]
    limits = _limits(metadata)
    text += (f" ({limits})" if limits else "") + (" (live)" if live else "") + "."
    comment = textwrap.wrap(text, 96 - len(indent))
    value = yaml.safe_dump(_plain(f.default), default_flow_style=True).splitlines()[0]
    return "\n".join([*(f"{indent}# {line}" for line in comment), f"{indent}{f.name}: {value}"])


if __name__ == "__main__":
    print(explained_yaml(), end="")
