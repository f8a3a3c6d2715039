"""The edge of the command line: registering commands, errors in one line, exit codes.

Nothing heavy is imported here; each command imports what it needs when it runs.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_type_hints

import typer

from crossfire_core import __version__
from crossfire_core.config import T, replace_from
from crossfire_core.errors import ConfigError, CrossfireError
from crossfire_core.field.threads import quiet_thread_pools
from crossfire_core.recordings.options import RecordingOptions

F = TypeVar("F", bound=Callable[..., None])

EXIT_NOTHING_FOUND, EXIT_BAD_INPUT, EXIT_FAULT, EXIT_INTERRUPTED = 1, 2, 70, 130

app = typer.Typer(
    name="crossfire",
    help="Find a camera's pose in a neural map.\n\nTrain a map from a recording with poses, then "
    "localize images in it. Start with: crossfire sample room, or your own rosbag2.",
    epilog="Exit codes: 0 done; 1 nothing found, or a recording that is of no use; 2 bad input, in "
    "one line; 70 a fault of the program; 130 interrupted.",
    rich_markup_mode="markdown",  # "rich" would swallow the brackets of extras
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def choice(values: Sequence[str], *names: str, **more: Any) -> Any:
    """An option of typer's whose value shells complete."""

    def offered(incomplete: str) -> list[str]:
        return [value for value in values if value.startswith(incomplete)]

    return typer.Option(*names, autocompletion=offered, **more)


MapFile = Annotated[Path, typer.Argument(metavar="MAP", help="Map file made by crossfire train.")]
RecordingPath = Annotated[
    Path, typer.Argument(metavar="RECORDING", help="A rosbag2, or a folder of images with poses.")
]
RUNNING = "Running"  # heading of what every command has
Output = Annotated[Path, typer.Option("--output", "-o", help="File or folder to write.")]
JsonFile = Annotated[
    Path | None,
    typer.Option("--json", help="Write the outcome as JSON; - prints it.", rich_help_panel=RUNNING),
]
Device = Annotated[
    str,
    choice(
        ("auto", "cpu", "cuda"),
        "--device",
        help="auto, cpu, cuda or cuda:N.",
        rich_help_panel=RUNNING,
    ),
]
Backend = Annotated[
    str | None,
    choice(
        ("auto", "tinycudann", "triton", "numba", "torch"),
        "--backend",
        metavar="NAME",
        help="What evaluates the hash grids: auto, tinycudann, triton, numba or torch.",
        rich_help_panel=RUNNING,
    ),
]
Settings = Annotated[
    Path | None,
    typer.Option(
        "--config",
        help="YAML file of settings that differ from default.",
        rich_help_panel=RUNNING,
    ),
]
Changes = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="Change one setting; may be repeated.",
        rich_help_panel=RUNNING,
    ),
]


@dataclass(frozen=True)
class Running:
    """What most commands have in common; a parameter of this type becomes these options."""

    device: Device = "auto"
    backend: Backend = None
    config: Settings = None
    changes: Changes = None
    json: JsonFile = None


def command(panel: str = "Commands", name: str | None = None) -> Callable[[F], F]:
    """Register a function as a command.

    A parameter annotated ``RecordingOptions`` becomes one option for each of its fields, named
    and explained as there, below the command's own ones.

    Args:
        panel: heading in ``crossfire --help``.
        name: of the command, by default the function's.
    """

    def register(function: F) -> F:
        def run(**values: Any) -> None:
            function(**_gather(values))

        run.__doc__ = function.__doc__
        run.__signature__ = _expanded(function)  # type: ignore[attr-defined]
        app.command(name or function.__name__, rich_help_panel=panel)(run)
        return function

    return register


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"crossfire {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_show_version, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Options of the program itself; its help is the app's."""


def _expanded(function: Callable[..., None]) -> inspect.Signature:
    parameters: list[inspect.Parameter] = []
    running: list[inspect.Parameter] = []
    reading: list[inspect.Parameter] = []
    # not by get_type_hints, which on Python 3.10 makes other types of those that default to None
    for parameter in inspect.signature(function, eval_str=True).parameters.values():
        if parameter.annotation is RecordingOptions:
            reading = _recording_parameters(function.__name__)
        elif parameter.annotation is Running:
            running = _running_parameters()
        else:
            parameters.append(parameter)
    parameters = [
        p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in (*parameters, *running, *reading)
    ]
    return inspect.Signature(parameters)


def _recording_parameters(command: str) -> list[inspect.Parameter]:
    hints = get_type_hints(RecordingOptions)
    made = []
    for field in dataclasses.fields(RecordingOptions):
        if field.metadata.get("internal") or command not in field.metadata.get("only", (command,)):
            continue
        name = field.name.replace("_", "-")
        explained = typer.Option(
            f"--{name}/--no-{name}" if hints[field.name] == bool | None else f"--{name}",
            help=field.metadata["help"][0].upper() + field.metadata["help"][1:] + ".",
            rich_help_panel="Reading the recording",
            show_default=bool(field.default),
        )
        made.append(
            inspect.Parameter(
                _PREFIX + field.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=field.default,
                annotation=Annotated[hints[field.name], explained],
            )
        )
    return made


def _running_parameters() -> list[inspect.Parameter]:
    hints = get_type_hints(Running, include_extras=True)
    kind = inspect.Parameter.KEYWORD_ONLY
    return [
        inspect.Parameter(_RUNNING + f.name, kind, default=f.default, annotation=hints[f.name])
        for f in dataclasses.fields(Running)
    ]


_PREFIX, _RUNNING = "recording__", "running__"


def _gather(values: dict[str, Any]) -> dict[str, Any]:
    """Put the expanded options back into one ``RecordingOptions`` and one ``Running``."""
    groups: dict[str, dict[str, Any]] = {_PREFIX: {}, _RUNNING: {}, "": {}}
    for name, value in values.items():
        prefix = next(p for p in groups if name.startswith(p))
        groups[prefix][name.removeprefix(prefix)] = value
    rest = groups[""]
    if groups[_PREFIX]:
        rest["options"] = replace_from(RecordingOptions(), groups[_PREFIX])
    if groups[_RUNNING]:
        rest["run"] = Running(**groups[_RUNNING])
    return rest


def configured(base: T, file: Path | None, changes: Sequence[str] | None, **given: Any) -> T:
    """A config with a YAML file and ``--set`` laid over it.

    Args:
        base: what nothing else says otherwise.
        file: YAML of settings.
        changes: as ``NAME=VALUE``; the name may begin with the node's name for the section, as in
            ``localization.method``.
        given: settings with options of their own, None where the option is not given.

    Raises:
        ConfigError: a setting is unknown, of the wrong type or out of range.
    """
    import yaml

    from crossfire_core.config import load_yaml

    result = load_yaml(base, file) if file else base
    section = type(base).__name__.removesuffix("Config").lower() + "."
    for change in changes or ():
        name, equals, text = change.partition("=")
        if not equals or not name:
            raise ConfigError(f"--set {change!r}: write NAME=VALUE, e.g. --set iterations=5")
        try:
            value: Any = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigError(f"--set {change!r}: the value is not YAML") from error
        for part in reversed(name.removeprefix(section).split(".")):
            value = {part: value}
        result = replace_from(result, value)
    return replace_from(result, {k: v for k, v in given.items() if v is not None})


def names(text: str) -> tuple[str, ...]:
    """What an option lists, separated by commas."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def main() -> None:
    """Entry point of ``crossfire``."""
    quiet_thread_pools()
    try:
        code = run(sys.argv[1:])
    except Exception:
        traceback.print_exc()
        code = EXIT_FAULT  # 1, which Python would give, says that nothing was found
    sys.exit(code)


def run(arguments: Sequence[str]) -> int:
    """Run one command line.

    Returns:
        0, 1 if nothing was found, 2 for anything wrong with the input, 130 after Ctrl-C.
    """
    try:
        code = app(args=list(arguments) or ["--help"], standalone_mode=False, prog_name="crossfire")
        if code == EXIT_INTERRUPTED:
            print("interrupted", file=sys.stderr)
        return code if isinstance(code, int) else 0
    except CrossfireError as error:
        return complain(str(error))
    except (KeyboardInterrupt, typer.Abort):
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # the reader of a pipe has gone, as with `| head`
        sys.stderr.close()
        return EXIT_BAD_INPUT
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        return complain(f"{error.strerror or error}{where}")
    except Exception as error:
        message = getattr(error, "format_message", None)  # what typer raises for bad usage
        if message is None:
            raise
        context = getattr(error, "ctx", None)
        path = context.command_path if context else "crossfire"
        return complain(f"{message()} (see {path} --help)")


def complain(message: str) -> int:
    """Print one line on stderr and return the exit code for bad input."""
    print("error: " + " ".join(message.split()), file=sys.stderr)
    return EXIT_BAD_INPUT


def emit(values: dict[str, Any], file: Path | None) -> None:
    """Write a command's outcome where ``--json`` says, if it does."""
    if file is None:
        return
    text = json.dumps(values, indent=1, allow_nan=False, default=str) + "\n"
    if str(file) == "-":
        sys.stdout.write(text)
        return
    from crossfire_core.files import write_text

    write_text(file, text)
