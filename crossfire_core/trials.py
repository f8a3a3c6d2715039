"""Statements that are tried in a process of their own, which a broken library may end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping

_PATIENCE_S = 120.0  # a compiler may take long on a small machine
_PROGRAM = """
import json, sys
for name, statement in json.loads(sys.argv[1]).items():
    print(json.dumps(["try", name, ""]), flush=True)
    try:
        exec(statement, {})
        error = ""
    except BaseException as e:
        error = f"{type(e).__name__}: {e}".strip().partition(chr(10))[0]
    print(json.dumps(["end", name, error]), flush=True)
"""


def try_statements(statements: Mapping[str, str]) -> dict[str, str]:
    """Try Python statements, one after the other, without harm to this process.

    Args:
        statements: by a name.

    Returns:
        What went wrong by name, in one line; empty where nothing did.
    """
    verdicts: dict[str, str] = {}
    left = dict(statements)
    while left:
        begun, ended, code = _run(left)
        verdicts |= ended
        if begun is not None and begun not in ended:  # it took the process along
            verdicts[begun] = f"ends the process ({_reason(code)})"
        left = {name: text for name, text in left.items() if name not in verdicts}
        if begun is None:  # not even Python started
            verdicts |= dict.fromkeys(left, f"cannot be tried ({_reason(code)})")
            break
    return {name: verdicts[name] for name in statements}


def _run(statements: Mapping[str, str]) -> tuple[str | None, dict[str, str], int]:
    """The last name begun, the verdicts of those ended, and the exit code."""
    command = [sys.executable, "-c", _PROGRAM, json.dumps(dict(statements))]
    quiet = {**os.environ, "ROS_AUTOMATIC_DISCOVERY_RANGE": "OFF"}
    # The ROS wheels mark the environment of a Python that they have prepared; the child's
    # prepares itself.
    quiet.pop("_ROS_WHEELS_BOOTSTRAP_COMPLETE", None)
    try:
        done = subprocess.run(
            command, env=quiet, capture_output=True, text=True, timeout=_PATIENCE_S, check=False
        )
        said, code = done.stdout, done.returncode
    except subprocess.TimeoutExpired as error:
        said, code = (error.stdout or b"").decode(), -signal.SIGKILL
    begun, ended = None, {}
    for line in said.splitlines():
        try:
            step, name, error_text = json.loads(line)
        except ValueError:  # a library has something to say
            continue
        if step == "try":
            begun = name
        else:
            ended[name] = error_text
    return begun, ended, code


def _reason(code: int) -> str:
    try:
        return signal.Signals(-code).name if code < 0 else f"code {code}"
    except ValueError:
        return f"signal {-code}"
