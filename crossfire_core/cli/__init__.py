"""The ``crossfire`` command."""

from importlib import import_module
from importlib.util import find_spec

from crossfire_core.cli.shell import app, main, run

# Importing a module registers its commands, in the order of the help page.
for _module in (
    "sample",
    "demo",
    "doctor",
    "recordings",
    "mapping",
    "joining",
    "evaluation",
    "viewing",
    "exporting",
    "measuring",
):
    import_module(f"{__name__}.{_module}")

if find_spec("crossfire_ros") and find_spec("crossfire_ros.commands"):
    import_module("crossfire_ros.commands").register(app)

__all__ = ["main", "run"]
