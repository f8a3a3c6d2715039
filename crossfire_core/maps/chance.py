"""How much of an image of another place agrees with a map: two numbers that each map has."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Chance:
    """What shares of an image's cells agree in a place that is not the map's.

    Attributes:
        matches: by the finder's matches.
        patches: by the map's patches.
    """

    matches: float = 0.05
    patches: float = 0.05
