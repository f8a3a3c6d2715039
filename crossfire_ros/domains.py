"""ROS domains of one's own on this machine; needs no ROS."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from crossfire_core.errors import CrossfireError

# Higher ones share their ports with those that Linux hands out to anybody.
_DOMAINS = 100


class DomainError(CrossfireError):
    """No ROS domain is free."""


@contextmanager
def own_domain() -> Iterator[int]:
    """A domain that no other caller on this machine has until it is given back.

    Two graphs in one domain hear each other, and choosing by chance ends there sooner than one
    thinks. The claim is a lock on a file, which the system drops with the process.

    Raises:
        DomainError: all are taken.
    """
    for i in range(_DOMAINS):
        domain = 1 + (os.getpid() + i) % _DOMAINS
        path = Path(tempfile.gettempdir()) / f"crossfire_ros_domain_{domain}"
        try:
            file = path.open("a")
        except OSError:  # somebody else's
            continue
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                continue
            yield domain
            return
    raise DomainError("no ROS domain is free on this machine: name one with --domain-id")
