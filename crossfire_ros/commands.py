"""``crossfire play`` and ``crossfire replay``.

Imported with the command line, so ROS and everything heavy is imported inside the commands.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from crossfire_core.cli import shell
from crossfire_core.errors import ConfigError, MissingDependencyError, RecordingError
from crossfire_core.recordings.options import RecordingOptions
from crossfire_ros.options import PlayOptions, ReplayOptions

if TYPE_CHECKING:
    from crossfire_core.config import TrackingConfig
    from crossfire_core.localization.place import MapLocalizer
    from crossfire_core.recordings.lazy import Recording
    from crossfire_core.reports.plots import TopView
    from crossfire_ros.offline import OfflineStep
    from crossfire_ros.play import Player
    from crossfire_ros.recorder import Recorded
    from crossfire_ros.replay_report import ReplayOutcome

PANEL = "On a robot"

Bag = Annotated[Path, typer.Argument(metavar="BAG", help="A rosbag2, mcap or sqlite3.")]
Rate = Annotated[float, typer.Option(help="Seconds of the bag for one second of the clock.")]
Start = Annotated[float, typer.Option(help="Begin so many seconds after the start of the bag.")]
Duration = Annotated[float | None, typer.Option(help="Play only so many seconds of the bag.")]
Jump = Annotated[
    list[str] | None,
    typer.Option(metavar="AT:TO", help="At second AT of the bag go on at second TO; repeatable."),
]
Domain = Annotated[
    int | None, typer.Option(help="ROS domain; by default one that nobody else is in.")
]


def register(app: typer.Typer) -> None:
    """Add the commands of this module to the command line.

    Args:
        app: of :mod:`crossfire_core.cli.shell`.
    """
    if app is not shell.app:
        raise ValueError("commands can be registered only with the command line's own app")
    shell.command(PANEL)(play)
    shell.command(PANEL)(replay)
    shell.command(PANEL, "warm-up")(warm_up)


def play(
    bag: Bag,
    rate: Rate = 1.0,
    start: Start = 0.0,
    duration: Duration = None,
    loop: Annotated[bool, typer.Option(help="Begin again at the end.")] = False,
    paused: Annotated[
        bool, typer.Option(help="Wait for the service ~/resume, or the space bar.")
    ] = False,
    topic: Annotated[list[str] | None, typer.Option(help="Only this topic; repeatable.")] = None,
    remap: Annotated[
        list[str] | None, typer.Option(metavar="FROM:=TO", help="Rename a topic; repeatable.")
    ] = None,
    jump: Jump = None,
    wait: Annotated[float, typer.Option(help="Wait so long for the first listener, s.")] = 5.0,
) -> None:
    """Publish a rosbag2 with its clock, where `ros2 bag` is not installed.

    Nodes that listen need the parameter use_sim_time. The space bar pauses and resumes.

    Example: crossfire play room/query_bag --rate 0.5 --loop
    """
    options = PlayOptions(
        rate, start, duration, loop, paused, tuple(topic or ()), _renamed(remap), _jumps(jump)
    )
    _need_ros()
    _play(bag, options, wait)


def replay(
    map_file: shell.MapFile,
    bag: Bag,
    options: RecordingOptions,
    rate: Rate = 1.0,
    start: Start = 0.0,
    duration: Duration = None,
    jump: Jump = None,
    odometry: Annotated[bool, typer.Option(help="Give the bag's odometry to the node.")] = True,
    live: Annotated[bool, typer.Option(help="Run the node; --no-live needs no ROS.")] = True,
    offline: Annotated[
        bool, typer.Option(help="Also run the tracker without ROS over every frame.")
    ] = True,
    param: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME:=VALUE", help="A parameter of the node; repeatable."),
    ] = None,
    params_file: Annotated[Path | None, typer.Option(help="Parameters file of the node.")] = None,
    domain_id: Domain = None,
    report: Annotated[Path | None, typer.Option(help="Folder for the report.")] = None,
    json: shell.JsonFile = None,
) -> None:
    """Run the ROS 2 node on a bag and compare what it publishes with the recorded poses.

    The node runs in its own process and the bag is played to it at its own pace. The same tracker
    then runs without ROS, over every frame, for comparison.

    Example: crossfire replay room.map room/query_bag --report report
    """
    from crossfire_core.cli import display

    what = ReplayOptions(
        PlayOptions(rate, start, duration, jumps=_jumps(jump)),
        options,
        tuple(param or ()),
        params_file,
        odometry,
        domain_id=domain_id,
    )
    _need_ros(live)
    outcome, localizer = _replay(map_file, bag, what, live, offline)
    figures = outcome.to_json()
    display.table(_summary(figures), title=f"{bag.name}: {outcome.frames} images")
    shell.emit(figures, json)
    if report:
        from crossfire_ros.replay_report import write_report

        with display.working("drawing the report"):
            page = write_report(report, outcome, _view(localizer))
        display.out.print(f"report: {page}")
    if not (outcome.live_errors() or outcome.offline_errors()):
        raise typer.Exit(shell.EXIT_NOTHING_FOUND)


def warm_up(
    map_file: shell.MapFile, device: shell.Device = "auto", backend: shell.Backend = "auto"
) -> None:
    """Compile the kernels for this machine, so that the node's first start is not slow.

    They are kept beside the program, or in the folder that NUMBA_CACHE_DIR names.

    Example: crossfire warm-up room.map
    """
    from crossfire_core.cli import display
    from crossfire_core.localization.place import open_localizer

    started = time.perf_counter()
    with display.working("compiling"):
        open_localizer(map_file, None, device, backend).warm_up()
    display.out.print(f"ready after {time.perf_counter() - started:.1f} s")


def _need_ros(wanted: bool = True) -> None:
    if not wanted:
        return
    try:
        import rclpy  # noqa: F401
        import tf2_msgs.msg  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError(
            f"ROS 2 is not installed ({error.name}): source a ROS workspace, or in a checkout run "
            "pip install '.[ros]' ./tools/tf2_msgs"
        ) from error


def _play(bag: Path, options: PlayOptions, wait_s: float) -> None:
    import rclpy
    from rclpy.context import Context

    from crossfire_core.cli import display
    from crossfire_ros import runtime
    from crossfire_ros.play import Player
    from crossfire_ros.replay import spinning_node

    runtime.use_large_messages()
    context = Context()
    rclpy.init(context=context)
    try:
        with spinning_node("crossfire_player", context) as node:
            player = Player(node, bag, options)
            for text in player.skipped:
                display.err.print(f"left out: {text}")
            display.out.print(f"{player.duration_s:.1f} s: {', '.join(player.topics)}")
            if not player.wait_for_anybody(wait_s):
                display.err.print("nobody listens yet; playing all the same")
            with _space_bar(player), display.counting("playing") as update:
                player.run(lambda done, total: update(round(done, 1), round(total, 1)))
    finally:
        rclpy.try_shutdown(context=context)


def _space_bar(player: Player) -> Any:
    from crossfire_ros.keyboard import keys

    def toggle(key: str) -> None:
        if key == " ":
            (player.clock.resume if player.clock.paused else player.clock.pause)()

    return keys(toggle)


def _replay(
    map_file: Path, bag: Path, what: ReplayOptions, live: bool, offline: bool
) -> tuple[ReplayOutcome, MapLocalizer]:
    from crossfire_core.localization.place import open_localizer
    from crossfire_core.recordings import open_recording
    from crossfire_core.recordings.bag_reader import is_bag
    from crossfire_ros.offline import settings_for
    from crossfire_ros.replay_report import ReplayOutcome, truth_of

    if not is_bag(bag):
        raise RecordingError(f"{bag} is no rosbag2: `crossfire convert` makes one of a recording")
    settings = settings_for(what.parameters, what.params_file)
    recording = open_recording(bag, what.recording)
    truth = truth_of(recording)
    node = settings.node
    localizer = open_localizer(map_file, settings.localization, node.device, node.backend)
    what = replace(
        what, map_frame=localizer.neural_map.header.frame_id,
        use_odometry=what.use_odometry and settings.node.use_odometry,
    )  # fmt: skip
    recorded = _live(map_file, bag, what) if live else None
    steps = _offline(recording, localizer, settings.tracking, what) if offline else None
    context = {
        "map": map_file.name,
        "bag": bag.name,
        "rate": what.play.rate,
        "odometry": what.use_odometry,
    }
    play = what.play
    odometry = recording.odometry() if what.use_odometry else None
    outcome = ReplayOutcome(
        recorded, steps, truth, len(recording), play.jumps, play.start_s, context, odometry
    )
    return outcome, localizer


def _live(map_file: Path, bag: Path, what: ReplayOptions) -> Recorded:
    from crossfire_core.cli import display
    from crossfire_ros.replay import replay as run

    with display.counting("replaying") as update:
        return run(
            map_file,
            bag,
            what,
            lambda text: update(0, 1, text),
            lambda done, total: update(round(done, 1), round(total, 1), "s"),
        )


def _offline(
    recording: Recording, localizer: MapLocalizer, tracking: TrackingConfig, what: ReplayOptions
) -> list[OfflineStep]:
    from crossfire_core.cli import display
    from crossfire_ros.offline import track_offline

    localizer.warm_up()
    with display.counting("without ROS") as update:
        return track_offline(recording, localizer, tracking, what.use_odometry, on_progress=update)


def _view(localizer: MapLocalizer) -> TopView:
    from crossfire_core.reports.pictures import view_from_above

    header = localizer.neural_map.header
    poses = [view.map_from_camera for view in header.views]
    return view_from_above(localizer.renderer, header.camera, poses)


def _summary(figures: dict[str, Any]) -> list[tuple[str, str]]:
    rows = []
    for key, label, factor, unit in (
        ("median_translation_m", "median position error", 100.0, "cm"),
        ("median_rotation_deg", "median rotation error", 1.0, "deg"),
        ("offline_median_translation_m", "the same without ROS", 100.0, "cm"),
        ("offline_median_rotation_deg", "the same without ROS", 1.0, "deg"),
        ("fixes_per_s", "fixes", 1.0, "a second"),
        ("tf_hz", "corrections on /tf", 1.0, "Hz"),
        ("first_fix_s", "first fix after", 1.0, "s"),
        ("time_lost_s", "without tracking", 1.0, "s"),
        ("tf_median_translation_m", "median position error by /tf", 100.0, "cm"),
        ("node_memory_mb", "memory of the node", 1.0, "MB"),
        ("node_cores", "cores busy with the node", 1.0, ""),
    ):
        if figures.get(key) is not None:
            rows.append((label, f"{factor * figures[key]:.2f} {unit}"))
    if "dropped" in figures:
        age = figures["pose_age_ms"]
        rows.append(("age of a pose", _span(age["median"], age["p95"])))
        rows.append(("images dropped", f"{figures['dropped']} of {figures['received']}"))
        again = [f"{t:.1f} s" if t else "never" for t in figures["recovery_s"]]
        rows += [("tracking again after a jump", ", ".join(again))] if again else []
    wrong = figures.get("confidently_wrong", figures.get("offline_confidently_wrong"))
    return [*rows, ("wrong poses with small covariance", str(wrong))]


def _span(middle: float | None, p95: float | None) -> str:
    return "none" if middle is None or p95 is None else f"{middle:.0f} ms, 95 % within {p95:.0f} ms"


def _jumps(texts: list[str] | None) -> tuple[tuple[float, float], ...]:
    jumps = []
    for text in texts or ():
        try:
            at, to = map(float, text.split(":"))
        except ValueError:
            raise ConfigError(f"--jump {text!r}: write AT:TO in seconds, e.g. 3.0:6.5") from None
        jumps.append((at, to))
    return tuple(jumps)


def _renamed(texts: list[str] | None) -> dict[str, str]:
    names = {}
    for text in texts or ():
        old, mark, new = text.partition(":=")
        if not mark or not old or not new:
            raise ConfigError(f"--remap {text!r}: write FROM:=TO, e.g. /image_raw:=/image")
        names[old] = new
    return names
