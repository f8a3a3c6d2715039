"""Domains that no two graphs on a machine share."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from crossfire_ros.domains import DomainError, own_domain

ROOT = Path(__file__).resolve().parent.parent


def test_no_two_are_alike_and_they_come_back():
    with ExitStack() as stack:
        taken = [stack.enter_context(own_domain()) for _ in range(5)]
    assert len(set(taken)) == 5 and all(1 <= n <= 100 for n in taken)
    with own_domain() as again:
        assert again == taken[0]


def test_another_process_gets_another_one():
    program = "from crossfire_ros.domains import own_domain as d\nwith d() as n: print(n)"
    with own_domain() as mine:
        # Whatever its process number, it would have to take over this one's claim.
        code = f"import os; os.getpid = lambda: {os.getpid()}\n{program}"
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
        )
    assert int(done.stdout) != mine


def test_none_left_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path / "nowhere"))
    with pytest.raises(DomainError, match="--domain-id"), own_domain():
        pass
