"""Packages of the core import each other in one direction only, and never ROS."""

import ast
from pathlib import Path

import crossfire_core

CORE = Path(crossfire_core.__file__).parent


def imports(path: Path) -> set[str]:
    """Modules that a file imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def room(path: Path) -> str:
    """The package, or the single module, that a file of the core belongs to."""
    return path.relative_to(CORE).parts[0].removesuffix(".py")


def doors() -> dict[str, set[str]]:
    """Which rooms each room imports."""
    rooms: dict[str, set[str]] = {}
    for path in CORE.rglob("*.py"):
        names = [name.split(".") for name in imports(path) if name.startswith("crossfire_core.")]
        rooms.setdefault(room(path), set()).update(name[1] for name in names)
    return {name: others - {name} for name, others in rooms.items()}


def test_no_package_imports_itself_through_others() -> None:
    rooms = doors()
    assert {"localization", "maps", "reports", "vision"} <= rooms.keys()
    while rooms:  # take away what stands on nothing else, as a topological sort does
        ground = {name for name, below in rooms.items() if not below & rooms.keys()}
        assert ground, f"these import each other in a circle: {sorted(rooms)}"
        rooms = {name: below for name, below in rooms.items() if name not in ground}


def test_the_core_knows_no_ros() -> None:
    for path in CORE.rglob("*.py"):
        outside = {name.split(".")[0] for name in imports(path)}
        assert not outside & {"rclpy", "crossfire_ros"}, path
