import inspect
import json
import math
import os
import re
import signal
import subprocess
import sys
from types import SimpleNamespace
from typing import get_args

import numpy as np
import pytest
import typer
import yaml
from recording_samples import RobotBag, picture, png, without

import crossfire_core
from crossfire_core.cli import run, shell
from crossfire_core.cli.display import clock, figures
from crossfire_core.cli.shell import app
from crossfire_core.errors import ConfigError
from crossfire_core.geometry import Camera, Pose
from crossfire_core.localization.estimate import PoseEstimate

COMMAND = [sys.executable, "-c", "from crossfire_core.cli import main; main()"]


def names():
    return [c.name or c.callback.__name__ for c in app.registered_commands]


@pytest.fixture
def failing(capsys):
    """Runs a command line that must fail with one readable line."""

    def go(*arguments):
        code = run([str(a) for a in arguments])
        captured = capsys.readouterr()
        lines = captured.err.strip().splitlines()
        assert code == 2, captured
        assert len(lines) == 1 and lines[0].startswith("error: "), captured.err
        return lines[0]

    return go


def test_help_lists_every_command(capsys):
    assert run([]) == 0
    shown = capsys.readouterr().out
    for name in ("train", "evaluate", "localize", "info", "render", "sample", "benchmark"):
        assert name in shown and name in names()


def test_version_is_said_without_a_command(capsys):
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"crossfire {crossfire_core.__version__}\n"


@pytest.mark.parametrize("name", names())
def test_each_help_teaches_with_an_example(name, capsys):
    assert run([name, "--help"]) == 0
    shown = capsys.readouterr().out
    assert "Example" in shown and "crossfire" in shown


def test_help_keeps_the_brackets_of_extras(capsys):
    run(["train", "--help"])
    assert "[sfm]" in capsys.readouterr().out


def test_help_imports_nothing_heavy():
    script = (
        "import sys; from crossfire_core.cli import run; run(['--help']);"
        "heavy = {'torch', 'cv2', 'numba', 'matplotlib', 'scipy'} & set(sys.modules);"
        "sys.exit(', '.join(heavy) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_missing_map_is_one_line_that_says_what_to_do(failing, tmp_path):
    assert "crossfire train" in failing("info", tmp_path / "none.map")


def test_a_damaged_map_is_refused(failing, tmp_path):
    path = tmp_path / "bad.map"
    path.write_bytes(b"\x00" * 100)
    assert "not a crossfire map" in failing("info", path)


def test_a_missing_recording_is_refused(failing, tmp_path):
    line = failing("train", tmp_path / "none", "-o", tmp_path / "out.map")
    assert "no recording at" in line
    assert not (tmp_path / "out.map").exists()


def test_wrong_usage_points_at_the_help(failing):
    assert "crossfire train --help" in failing("train")
    assert "crossfire --help" in failing("trian")
    assert "--mapp" in failing("train", "bag", "--mapp", "x")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("nonsense=1", "unknown setting nonsense"),
        ("iterations=99", "iterations is 99"),
        ("iterations=many", "iterations is 'many'"),
        ("iterations", "NAME=VALUE"),
        ("iterations=[", "not YAML"),
    ],
)
def test_wrong_settings_are_named(change, message, failing):
    assert message in failing("evaluate", "a.map", "bag", "--set", change)


@pytest.mark.parametrize("name", ["localize", "evaluate", "render", "view", "train"])
def test_a_backend_that_is_not_known_is_refused_before_anything_else(name, failing, tmp_path):
    paths = [tmp_path / "none.map", tmp_path / "none"]
    if name in ("train", "render"):
        paths.insert(1, "-o")
    said = failing(name, *paths, "--backend", "abacus")
    assert "abacus" in said and "tinycudann, triton, numba, torch" in said


def test_the_backend_option_beats_the_settings_file(tmp_path):
    from crossfire_core.cli.shell import configured
    from crossfire_core.config import TrainingConfig

    file = tmp_path / "settings.yaml"
    file.write_text("backend: numba\n")
    given = lambda backend: configured(TrainingConfig(), file, None, backend=backend)  # noqa: E731
    assert (given("torch").backend, given(None).backend) == ("torch", "numba")


@pytest.mark.parametrize("name", ["method", "localization.method"])
def test_a_setting_goes_by_its_own_name_and_by_the_nodes(name):
    from crossfire_core.cli.shell import configured
    from crossfire_core.config import LocalizationConfig

    assert configured(LocalizationConfig(), None, [f"{name}=crossfire"]).method == "crossfire"


def test_settings_come_from_a_file_with_changes_on_top(tmp_path):
    from crossfire_core.cli.shell import configured
    from crossfire_core.config import LocalizationConfig

    file = tmp_path / "settings.yaml"
    file.write_text(yaml.safe_dump({"iterations": 5, "min_inliers": 30}))
    config = configured(LocalizationConfig(), file, ["min_inliers=40"])
    assert (config.iterations, config.min_inliers) == (5, 40)
    with pytest.raises(ConfigError, match="cannot read settings"):
        configured(LocalizationConfig(), tmp_path / "none.yaml", None)


def test_recording_options_reach_the_reader_by_their_own_names(tmp_path, failing, monkeypatch):
    import crossfire_core.recordings

    seen = {}

    def opened(path, options):
        seen["options"] = options
        raise ConfigError("far enough")

    monkeypatch.setattr(crossfire_core.recordings, "open_recording", opened)
    line = failing(
        "train", "bag", "-o", tmp_path / "m", "--stride", "3", "--pose-topic", "/gt", "--depth"
    )
    assert "far enough" in line
    options = seen["options"]
    assert (options.stride, options.pose_topic, options.use_depth) == (3, "/gt", True)


def test_options_out_of_range_are_refused(failing):
    assert "stride is 0" in failing("train", "bag", "-o", "m", "--stride", "0")


def test_evaluate_refuses_priors_that_do_not_exist(failing):
    assert "retrieval, previous, odometry" in failing("evaluate", "m", "bag", "--start-from", "gps")


def test_benchmark_names_what_can_be_chosen(failing, tmp_path):
    assert "shared, sample" in failing("benchmark", "--suite", "x")
    assert "sift" in failing("benchmark", "--methods", "orb", "--data", tmp_path)
    assert "CROSSFIRE_DATA" in failing("benchmark", "--data", tmp_path / "none")


def test_ctrl_c_ends_with_130_and_no_traceback():
    script = (
        "import signal, time, crossfire_core.recordings as r\n"
        # a shell starts background jobs, the whole suite perhaps, with Ctrl-C ignored
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "def slow(*a): print('ready', flush=True); time.sleep(60)\n"
        "r.open_recording = slow\n"
        "from crossfire_core.cli import main; main()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, "train", "bag", "-o", "m"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err and "interrupted" in err


def test_a_full_disk_is_one_line(failing, tmp_path, monkeypatch):
    from crossfire_core.cli import shell

    def full(*_):
        raise OSError(28, "No space left on device", "x.json")

    monkeypatch.setattr("crossfire_core.files.write_text", full)
    monkeypatch.setattr("crossfire_core.sample.places.write_place", lambda *a: {}, raising=True)
    assert shell.run  # the module under test
    assert "No space left on device" in failing("sample", tmp_path, "--json", tmp_path / "x.json")


def test_poses_are_parsed_and_wrong_ones_explained():
    from crossfire_core.cli.evaluation import parse_pose

    pose = parse_pose("1, 2 3  0 0 0 2")
    assert pose.distance(Pose(np.eye(3), np.array([1.0, 2, 3]))) == pytest.approx((0, 0))
    for wrong in ("1 2 3", "1 2 3 0 0 0 0", "a b c d e f g", "1 2 nan 0 0 0 1"):
        with pytest.raises(ConfigError, match="a pose is"):
            parse_pose(wrong)


class FinderOfSquares:
    """A localizer that finds images of the map's camera, and remembers their cameras."""

    def __init__(self):
        camera = Camera(64, 48, 60.0, 61.0, 32.5, 24.0)
        self.neural_map = SimpleNamespace(header=SimpleNamespace(camera=camera))
        self.seen = []

    def localize(self, image, camera, prior=None):
        assert image.shape == (camera.height, camera.width, 3)
        self.seen.append(camera)
        return PoseEstimate(True, "", Pose.identity())


def test_one_bad_image_of_many_is_named_and_the_others_are_answered(tmp_path, monkeypatch, capsys):
    from crossfire_core.cli import evaluation

    localizer = FinderOfSquares()
    monkeypatch.setattr(evaluation, "load_localizer", lambda *a: localizer)
    good = tmp_path / "good.png"
    good.write_bytes(png(picture(0, (32, 24))))
    (tmp_path / "cut.png").write_bytes(png(picture(0))[:200])
    (tmp_path / "wide.png").write_bytes(png(picture(0, (64, 20))))
    bad = [str(tmp_path / name) for name in ("cut.png", "wide.png", "absent.png")]
    out = tmp_path / "out.json"
    assert run(["localize", "a.map", bad[0], str(good), *bad[1:], "--json", str(out)]) == 0
    answers = json.loads(out.read_text())
    assert [answers[name]["ok"] for name in (str(good), *bad)] == [True, False, False, False]
    assert localizer.seen == [Camera(32, 24, 30.0, 30.5, 16.25, 12.0)]
    reasons = [answers[name]["reason"] for name in bad]
    assert "cut short" in reasons[0] and "64x20" in reasons[1] and "cannot read" in reasons[2]
    assert run(["localize", "a.map", *bad]) == 1
    assert capsys.readouterr().out.count("not localized") == 3


def test_progress_texts():
    assert clock(None) == "-:--" and clock(65) == "1:05" and clock(3723) == "1:02:03"
    assert figures(0.5, 21.26, {}) == "loss 0.500, PSNR 21.3 dB"
    assert "held out 1.5 cm" in figures(0.5, 20, {"median_translation_m": 0.015})
    assert "held out 20.5 dB" in figures(0.5, 20, {"psnr": 20.46})
    assert figures(np.nan, np.nan, {}) == ""  # before the first step
    assert figures(0.5, np.nan, {}) == "loss 0.500"  # resumed in the second stage
    lost = figures(0.5, 20, {"median_translation_m": np.inf, "median_rotation_deg": np.inf})
    assert lost.endswith("dB, held out: not found yet")


def test_json_on_stdout_is_nothing_but_json(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(
        "crossfire_core.sample.places.write_place",
        lambda folder, *a: {"mapping": folder / "mapping_bag"},
    )
    assert run(["sample", str(tmp_path), "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out) == {"mapping": str(tmp_path / "mapping_bag")}


def test_check_and_convert_a_bag(tmp_path, capsys):
    bag = RobotBag(count=8).write(tmp_path / "bag")
    photos = tmp_path / "photos"
    assert run(["convert", str(bag), "-o", str(photos), "--to", "transforms"]) == 0
    assert "images" in capsys.readouterr().out
    assert (photos / "transforms.json").exists()
    code = run(["check", str(bag), "--json", "-"])
    outcome = json.loads(capsys.readouterr().out)
    assert code == (0 if outcome["usable"] else 1)
    assert outcome["verdict"]
    assert run(["convert", str(bag), "-o", str(photos), "--to", "transforms"]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
    assert run(["convert", str(bag), "-o", str(tmp_path / "x"), "--to", "ply"]) == 2


def test_check_says_with_its_exit_code_that_no_map_can_be_made(tmp_path, capsys):
    bag = RobotBag(parts=without("info")).write(tmp_path / "bag")
    assert run(["check", str(bag), "--report", str(tmp_path / "report")]) == 1
    assert "not usable" in capsys.readouterr().err
    assert (tmp_path / "report" / "index.html").exists()


def test_demo_leads_through_all_steps_and_uses_again_what_is_there(tmp_path, capsys, monkeypatch):
    """The steps themselves are tested elsewhere; here, that they are put together."""
    from crossfire_core.cli import demo, evaluation, mapping
    from crossfire_core.evaluation.evaluate import Evaluation

    done = []

    def sample(folder, on_frame=None):
        done.append("sample")
        return {"mapping": folder / "mapping_bag", "query": folder / "query_bag"}

    def train(source, map_file, config, course):
        done.append("train")
        map_file.write_bytes(b"map")

    monkeypatch.setattr("crossfire_core.sample.recording.write_sample", sample)
    monkeypatch.setattr("crossfire_core.recordings.open_recording", lambda path: path)
    monkeypatch.setattr(mapping, "train_with_bar", train)
    monkeypatch.setattr(evaluation, "load_localizer", lambda *a: None)
    monkeypatch.setattr(evaluation, "measure", lambda *a: Evaluation([], 3))
    monkeypatch.setattr(evaluation, "write_report", lambda folder, *a: folder / "report.html")
    monkeypatch.setattr(demo, "find_spec", lambda name: None)  # as without ROS
    assert demo.demo  # the command under test
    for _ in range(2):
        assert run(["demo", str(tmp_path), "--json", str(tmp_path / "out.json")]) == 0
    assert done == ["sample", "train", "sample"]
    shown = capsys.readouterr().out
    assert "report.html" in shown and "no ROS 2" in shown
    assert json.loads((tmp_path / "out.json").read_text())["evaluation"]["frames"] == 0


def test_speed_needs_a_map_and_a_recording(failing):
    assert "RECORDING" in failing("speed", "room.map")


def test_an_evaluation_that_finds_nothing_says_so_with_its_exit_code(tmp_path, monkeypatch):
    from crossfire_core.cli import evaluation
    from crossfire_core.evaluation.evaluate import Evaluation
    from crossfire_core.evaluation.metrics import FrameError

    lost = FrameError("a", 0, False, "", Pose.identity(), None, math.nan, math.nan)
    header = SimpleNamespace(provenance={})
    localizer = SimpleNamespace(neural_map=SimpleNamespace(header=header))
    monkeypatch.setattr(evaluation, "load_localizer", lambda *_: localizer)
    context = {"recording": "fox", "trained_on": 0}
    monkeypatch.setattr(evaluation, "measure", lambda *_: Evaluation([lost], 1, context))
    bag = RobotBag(count=3).write(tmp_path / "bag")
    assert run(["evaluate", "room.map", str(bag)]) == 1


def test_a_fault_of_the_program_is_no_such_answer(monkeypatch, capsys):
    monkeypatch.setattr(shell, "run", lambda _: 1 / 0)
    with pytest.raises(SystemExit) as ended:
        shell.main()
    assert ended.value.code == 70 and "ZeroDivisionError" in capsys.readouterr().err


def test_the_shell_completes_commands_and_options(monkeypatch, capsys):
    for typed, offered in (
        ("crossfire tra", "train"),
        ("crossfire train --hold", "--holdout-every"),
    ):
        monkeypatch.setenv("_CROSSFIRE_COMPLETE", "complete_bash")
        monkeypatch.setenv("COMP_WORDS", typed)
        monkeypatch.setenv("COMP_CWORD", str(typed.count(" ")))
        with pytest.raises(SystemExit):
            run([])
        assert capsys.readouterr().out.split() == [offered]


def test_train_shows_the_options_that_matter_first(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "200")
    assert run(["train", "--help"]) == 0
    panels = re.split(r"╭─ (.*?) ─+╮", capsys.readouterr().out)[1:]
    shown = {
        title: re.findall(r"^│ [* ]*(--[a-z-]+)", text, re.M)
        for title, text in zip(panels[::2], panels[1::2], strict=True)
    }
    assert shown["Options"] == [
        "--output", "--poses", "--minutes", "--holdout-every", "--depth", "--resume", "--help",
    ]  # fmt: skip
    assert list(shown) == [
        "Arguments", "Options", "Poses", "Large places", "Running", "Reading the recording",
    ]  # fmt: skip


def test_an_option_takes_the_same_in_all_commands():
    taken: dict[str, set[str]] = {}
    for command in app.registered_commands:
        for parameter in inspect.signature(command.callback).parameters.values():
            kind, about = get_args(parameter.annotation)
            if isinstance(about, typer.models.OptionInfo):
                name = parameter.name.removeprefix("recording__")
                taken.setdefault(name, set()).add(
                    inspect.formatannotation(kind).removesuffix(" | None")
                )
    assert "output" in taken and {n: k for n, k in taken.items() if len(k) > 1} == {}


def test_where_poses_come_from_is_chosen_on_the_command_line(failing, tmp_path, monkeypatch):
    from crossfire_core.mapping_poses import sources

    seen = {}

    def opened(paths, options, mode, config, workspace, **more):
        seen.update(paths=paths, mode=mode, workspace=workspace, config=config, **more)
        raise ConfigError("far enough")

    monkeypatch.setattr(sources, "open_for_mapping", opened)
    target = tmp_path / "m.map"
    failing(
        "train", "a", "b", "-o", target, "--poses", "sfm", "--align-recordings", "--set",
        "sfm.loops=2", "--holdout-every", "5",
    )  # fmt: skip
    assert [str(p) for p in seen["paths"]] == ["a", "b"]
    assert (seen["mode"], seen["align"], seen["refine"]) == ("sfm", True, False)
    assert seen["config"].loops == 2
    assert seen["holdout_every"] == 5
    assert seen["workspace"].parent == tmp_path  # beside the map


def test_an_interrupted_reconstruction_is_kept_and_said(tmp_path, capsys):
    from crossfire_core.cli.mapping import can_resume, keeping

    workspace = tmp_path / "m.map.sfm"
    workspace.mkdir()
    with pytest.raises(KeyboardInterrupt), keeping(workspace):
        raise KeyboardInterrupt
    told = " ".join(capsys.readouterr().err.split())
    assert "the same command goes on from" in told
    assert workspace.exists()
    assert not can_resume(tmp_path / "m.map", workspace)  # training itself has not begun


def test_a_stop_says_whether_there_is_a_checkpoint(tmp_path, capsys):
    from crossfire_core.cli.mapping import train_with_bar
    from crossfire_core.config import TrainingConfig
    from crossfire_core.training.checkpoint import checkpoint_path
    from crossfire_core.training.schedule import USUAL

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    for there, says in ((False, "starts training again"), (True, "--resume goes on")):
        if there:
            checkpoint_path(tmp_path / "m.map").touch()
        with pytest.raises(KeyboardInterrupt):
            train_with_bar(None, tmp_path / "m.map", TrainingConfig(), USUAL, interrupted)
        assert says in " ".join(capsys.readouterr().err.split())


def test_extend_refuses_poses_it_does_not_know(failing, tmp_path):
    assert "no map at" in failing("extend", tmp_path / "none.map", "bag")


def test_a_shell_completes_the_values_of_an_option():
    typed = "crossfire evaluate a.map bag --start-from r"
    asked = {"_CROSSFIRE_COMPLETE": "complete_bash", "COMP_WORDS": typed, "COMP_CWORD": "5"}
    said = subprocess.run(COMMAND, env=os.environ | asked, capture_output=True, text=True)
    assert said.stdout.split() == ["retrieval"]
