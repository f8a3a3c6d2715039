import json

import numpy as np
import pytest

from crossfire_core import doctor
from crossfire_core.cli import run
from crossfire_core.errors import MissingDependencyError
from crossfire_core.geometry import Camera, Pose
from crossfire_core.localization.estimate import Matches, PoseEstimate
from crossfire_core.recordings.frame import Frame
from crossfire_core.trials import try_statements


def test_everything_works_on_the_machine_that_runs_the_tests(capsys):
    assert run(["doctor", "--json", "-"]) == 0
    findings = json.loads(capsys.readouterr().out)["findings"]
    named = {(f["area"], f["name"]): f for f in findings}
    assert named["backends", "chosen"]["text"] in ("numba", "torch", "triton", "tinycudann")
    assert {f["name"] for f in findings if f["area"] == "self-test"} == set(doctor._TESTS)
    assert not [f for f in findings if f["verdict"] == "problem"]


def test_a_backend_that_cannot_run_says_why():
    for finding in doctor._backends():
        if finding.verdict == "note":
            assert len(finding.text) > 8


def test_a_missing_package_is_a_problem_with_a_cure(monkeypatch, capsys):
    installed = doctor._installed
    gone = ("rosbags", "poselib")
    monkeypatch.setattr(doctor, "_installed", lambda p: "" if p in gone else installed(p))
    for package in gone:
        monkeypatch.setitem(doctor._PACKAGES, package, "no_such_module")
    verdicts = {f.name: f for f in doctor._versions()}
    assert verdicts["rosbags"].verdict == "problem"
    assert verdicts["poselib"].verdict == "note" and "OpenCV" in verdicts["poselib"].text
    assert run(["doctor", "--no-self-test"]) == 2
    assert "missing: pip install" in capsys.readouterr().out


def test_a_package_that_is_installed_and_broken_is_a_problem(monkeypatch):
    """Its metadata says that all is well; only importing it shows that it ends the process."""
    monkeypatch.setattr(
        doctor, "_PACKAGES", {"numpy": "numpy", "scipy": "scipy; import os; os.abort()"}
    )
    verdicts = {f.name: f for f in doctor._versions()}
    assert verdicts["numpy"].verdict == "ok"
    assert verdicts["scipy"].verdict == "problem" and "SIGABRT" in verdicts["scipy"].text


def test_statements_are_tried_each_by_itself():
    said = try_statements(
        {
            "fine": "print('a word of its own')",
            "raises": "raise ValueError('no such luck')",
            "kills": "import os; os.kill(os.getpid(), 11)",
            "leaves": "import os; os._exit(3)",
            "exits": "raise SystemExit(1)",
            "after": "1 + 1",
        }
    )
    assert said["fine"] == said["after"] == ""
    assert said["raises"] == "ValueError: no such luck"
    assert "SIGSEGV" in said["kills"] and "code 3" in said["leaves"]
    assert "SystemExit" in said["exits"]


def test_a_self_test_that_breaks_is_reported_and_the_others_still_run(monkeypatch):
    def broken():
        raise ValueError("no such luck")

    monkeypatch.setattr(doctor, "_TESTS", {"broken": broken, "fine": lambda: "well"})
    first, second = doctor._self_test()
    assert first.verdict == "problem" and "no such luck" in first.text
    assert second.verdict == "ok"


def test_the_viewer_without_rerun_names_the_extra(monkeypatch):
    import sys

    from crossfire_core.viewer import Viewer

    monkeypatch.setitem(sys.modules, "rerun", None)
    with pytest.raises(MissingDependencyError, match=r"\[viz\]"):
        Viewer()


class Wall:
    """Two metres ahead of every camera."""

    def render(self, camera, map_from_camera):
        shape = (camera.height, camera.width)
        values = {
            "colour": np.full((*shape, 3), 0.5, np.float32),
            "z_depth": np.full(shape, 2.0, np.float32),
            "opacity": np.ones(shape, np.float32),
        }
        return type("Rendering", (), values)()


def test_the_viewer_writes_a_file(tmp_path):
    pytest.importorskip("rerun", reason="the viewer needs Rerun: extra [viz]")
    from crossfire_core.viewer import Viewer, show_recording

    camera, pose = Camera(64, 48, 50, 50, 32, 24), Pose.identity()
    frames = [Frame(str(i), np.zeros((48, 64, 3), np.uint8), camera, i, pose) for i in range(3)]

    class Localizer:
        def localize(self, image, camera, prior=None, **_):
            self.priors = [*getattr(self, "priors", []), prior]
            pixels = np.array([[10.0, 10.0], [20.0, 20.0]])
            matches = Matches(pixels, np.ones((2, 3)), np.ones(2), np.array([True, False]))
            if len(self.priors) == 2:
                return PoseEstimate(False, "too few")
            return PoseEstimate(True, "", pose, details=matches)

    localizer = Localizer()
    viewer = Viewer(tmp_path / "out" / "map.rrd")
    assert viewer.show_map(Wall(), camera, [pose, pose]) == 2 * 64 * 48
    found = list(show_recording(viewer, localizer, frames))
    viewer.close()
    assert [f.ok for f in found] == [True, False, True]
    assert [p is None for p in localizer.priors] == [True, False, True]
    assert (tmp_path / "out" / "map.rrd").stat().st_size > 1000
