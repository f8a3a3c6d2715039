"""Settings: YAML there and back, and what is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from crossfire_core import config
from crossfire_core.config import dump_yaml, load_yaml, option, replace_from
from crossfire_core.errors import ConfigError

CONFIGS = [
    kind()
    for kind in vars(config).values()
    if isinstance(kind, type)
    and dataclasses.is_dataclass(kind)
    and kind.__module__ == config.__name__
]


@dataclasses.dataclass(frozen=True)
class Inner:
    """A nested config."""

    count: int = option(3, "a number", min=1, max=9)


@dataclasses.dataclass(frozen=True)
class Sample:
    """One field of every kind."""

    inner: Inner = Inner()
    size: tuple[int, ...] = option((1, 2), "a list")
    ratio: float = option(0.5, "a share", min=0.0, max=1.0)
    name: str = option("a", "a choice", choices=("a", "b"))
    fast: bool = option(False, "a switch")


@pytest.mark.parametrize("settings", [*CONFIGS, Sample()], ids=lambda s: type(s).__name__)
def test_yaml_reads_back(settings: object, tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text(dump_yaml(settings))
    assert load_yaml(type(settings)(), file) == settings


def test_changed_values_read_back(tmp_path: Path) -> None:
    changed = Sample(Inner(7), (4, 5, 6), 0.25, "b", True)
    file = tmp_path / "settings.yaml"
    file.write_text(dump_yaml(changed))
    assert load_yaml(Sample(), file) == changed


@pytest.mark.parametrize("settings", CONFIGS, ids=lambda s: type(s).__name__)
def test_every_setting_is_explained_and_its_default_is_in_range(settings: object) -> None:
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if dataclasses.is_dataclass(value):
            continue
        assert field.metadata.get("help"), field.name
        assert replace_from(settings, {field.name: value}) == settings


def test_only_named_settings_change() -> None:
    changed = replace_from(Sample(), {"inner": {"count": 5}, "ratio": 1})
    assert changed == Sample(Inner(5), ratio=1.0)
    assert isinstance(changed.ratio, float)
    assert replace_from(Sample(), {}) == Sample()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"nme": "a"}, r"unknown setting nme.*name"),
        ({"inner": {"cont": 1}}, r"unknown setting inner\.cont"),
        ({"inner": 3}, "inner must be a mapping"),
        ({"inner": {"count": 0}}, r"inner\.count is 0, allowed is at least 1"),
        ({"inner": {"count": 10}}, "allowed is"),
        ({"inner": {"count": 2.5}}, "expected int"),
        ({"inner": {"count": True}}, "expected int"),
        ({"inner": {"count": None}}, "expected int"),
        ({"ratio": 1.5}, "allowed is"),
        ({"ratio": float("nan")}, "NaN"),
        ({"ratio": "much"}, "expected float"),
        ({"ratio": True}, "expected float"),
        ({"name": "c"}, "choose from a, b"),
        ({"fast": 1}, "expected bool"),
        ({"fast": "yes"}, "expected bool"),
        ({"size": 3}, "expected tuple"),
        ({1: 2}, "unknown setting 1"),
    ],
)
def test_bad_settings_are_named(values: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        replace_from(Sample(), values)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["a: [", "- 1\n- 2", "text", "5", "\0", "a: !!python/object:x {}"])
def test_files_that_are_no_settings(text: str, tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_yaml(Sample(), file)
    assert "\n" not in str(caught.value)


def test_absent_and_empty_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read settings"):
        load_yaml(Sample(), tmp_path / "absent.yaml")
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    assert load_yaml(Sample(), tmp_path / "empty.yaml") == Sample()


def test_a_number_may_be_written_as_people_write_it() -> None:
    """YAML takes 5e-4 for a word, and a whole number is as good as one with a point."""
    base = config.TrainingConfig()
    changed = replace_from(base, {"geometry": {"ssim_weight": "5e-4", "depth_weight": 1}})
    assert changed.geometry.ssim_weight == 5e-4
    assert changed.geometry.depth_weight == 1.0
    with pytest.raises(ConfigError, match="expected float"):
        replace_from(base, {"geometry": {"ssim_weight": "little"}})
    with pytest.raises(ConfigError, match="NaN"):
        replace_from(base, {"geometry": {"ssim_weight": "nan"}})
