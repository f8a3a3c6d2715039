"""The lowest versions that setup.py names, as constraints for pip.

``make lowest`` installs them in an environment of their own and runs the tests there.
"""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

_LISTS = ("REQUIRED", "DEMO")
_BOUND = re.compile(r"^([A-Za-z0-9_.\-]+)>=([0-9][0-9A-Za-z.]*)")


def lowest_versions(setup: str, lists: tuple[str, ...] = _LISTS) -> list[str]:
    """Lines as ``name==version.*``, which leaves only repairs of that version open.

    Args:
        setup: text of a setup.py that holds its requirements in lists of these names.
        lists: which of them.
    """
    found = []
    for node in ast.parse(setup).body:
        if not isinstance(node, ast.Assign) or not isinstance(node.targets[0], ast.Name):
            continue
        if node.targets[0].id in lists:
            for requirement in ast.literal_eval(node.value):
                bound = _BOUND.match(requirement)
                found += [f"{bound[1]}=={bound[2]}.*"] if bound else []
    return found


if __name__ == "__main__":
    text = (Path(__file__).resolve().parent.parent / "setup.py").read_text(encoding="utf-8")
    sys.stdout.write("\n".join(lowest_versions(text)) + "\n")
