from dataclasses import replace

import cv2
import numpy as np
import pytest

from crossfire_core.geometry import Pose
from crossfire_core.recordings import open_recording
from crossfire_core.sample import (
    building,
    corridor,
    drive,
    furnishing,
    places,
    plan,
    raycast,
    recording,
    room,
    textures,
)
from crossfire_core.sample.drive import Drive
from crossfire_core.sample.recording import BASE_FROM_CAMERA, SampleRecording, write_sample

SMALL = (96, 72)


@pytest.fixture(scope="module")
def mapping():
    return SampleRecording(recording.MAPPING, size=SMALL)


@pytest.fixture(scope="module")
def query():
    return SampleRecording(recording.QUERY, size=SMALL)


def test_a_ray_meets_the_patch_that_is_nearest_at_the_right_distance():
    grey = textures.plain((0.5, 0.5, 0.5))
    walls = [room.facing((x, 0, 0), 2, 2, 180, grey) for x in (3.0, 2.0)]
    geometry = raycast.Geometry(walls)
    rays = np.array([[1.0, 0, 0], [0.8, 0.6, 0], [-1.0, 0, 0]])
    patch, distance = geometry.first_hit(np.zeros((3, 3)), rays)
    assert patch[0] == 1 and patch[2] == -1
    np.testing.assert_allclose(distance, [2.0, np.inf, np.inf])
    assert geometry.blocked(np.zeros((1, 3)), np.array([[2.5, 0, 0]]))[0]
    assert not geometry.blocked(np.zeros((1, 3)), np.array([[1.5, 0, 0]]))[0]


def test_a_texture_appears_the_right_way_round_on_a_wall():
    def quarters(height, width, metres, rng):
        image = np.zeros((height, width, 3), np.float32)
        image[: height // 2, : width // 2] = (1, 0, 0)  # red at the top left
        image[height // 2 :, width // 2 :] = (0, 0, 1)  # blue at the bottom right
        return image

    wall = [room.facing((2, 0, 0), 2, 2, 180, quarters, glows=True)]
    scene = raycast.Scene(raycast.Geometry(wall), raycast.paint(wall, 0))
    # Seen along +x with z up, the left side is +y.
    targets = np.array([[2, 0.5, 0.5], [2, -0.5, -0.5], [2, 0.5, -0.5]])
    rays = targets / np.linalg.norm(targets, axis=1, keepdims=True)
    colours, _ = scene.cast(np.zeros(3), rays, 0.002)
    np.testing.assert_allclose(colours, [[1, 0, 0], [0, 0, 1], [0, 0, 0]], atol=1e-6)


def test_a_lamp_lights_what_faces_it_and_not_what_is_in_shadow():
    grey = textures.plain((0.5, 0.5, 0.5), 0.0)
    patches = [
        room.lying((0, 0, 0), 4, 1, 0, grey),
        room.lying((1.0, 0, 1.0), 1.2, 1.2, 0, grey),
    ]
    geometry = raycast.Geometry(patches)
    lamp = raycast.Light((raycast.Lamp((1.0, 0, 2.0), (1, 1, 1)),), (0.0, 0.0, 0.0))
    floor = raycast.lit(patches, raycast.paint(patches, 0), geometry, lamp, (0,))[0]
    columns = floor.shape[1]
    under, beside = floor[:, int(0.75 * columns)], floor[:, int(0.3 * columns)]
    assert under.mean() < 0.1 * beside.mean()


def test_frames_are_the_same_twice_and_differ_by_seed(mapping):
    again = SampleRecording(recording.MAPPING, size=SMALL)
    other = SampleRecording(recording.MAPPING, seed=2, size=SMALL)
    first, second, third = (next(iter(r.frames([7]))) for r in (mapping, again, other))
    np.testing.assert_array_equal(first.image, second.image)
    assert np.abs(first.image.astype(int) - third.image).mean() > 3


def test_depth_and_pose_carry_one_image_onto_another(mapping):
    """Warping a view by its depth into the next one must show the same colours."""
    here, there = mapping.frames([20, 21])
    rays = here.camera.bearings(here.camera.pixel_grid())
    local = rays / rays[:, 2:] * here.depth.reshape(-1, 1)
    pixels = there.camera.project(
        there.world_from_camera.inverse().apply(here.world_from_camera.apply(local))
    )
    inside = (
        np.isfinite(pixels).all(1) & (pixels > 1).all(1) & (pixels < np.array(SMALL) - 1).all(1)
    )
    assert inside.mean() > 0.5
    at = (pixels[inside] - 0.5).astype(np.float32)
    seen = cv2.remap(there.image, at[:, None, 0], at[:, None, 1], cv2.INTER_LINEAR).reshape(-1, 3)
    difference = np.abs(here.image.reshape(-1, 3)[inside].astype(float) - seen).mean(1)
    assert np.median(difference) < 8
    wrong = np.abs(here.image.reshape(-1, 3)[inside].astype(float) - seen[::-1]).mean(1)
    assert np.median(wrong) > 3 * np.median(difference)


def test_everything_is_seen_within_the_room(mapping):
    frame = next(iter(mapping.frames([0])))
    assert np.isfinite(frame.depth).all()
    assert frame.depth.min() > 0.3 and frame.depth.max() < 6.0


def test_query_drives_elsewhere_in_other_light_with_somebody_in_the_way(mapping, query):
    poses = [i.world_from_camera for i in mapping.infos]
    nearest = [
        min(p.distance(i.world_from_camera)[0] for p in poses) for i in query.infos
    ]  # fmt: skip
    assert 0.02 < np.median(nearest) < 0.6
    frame = next(iter(query.frames([20])))
    empty = query._empty_room.cast(
        frame.world_from_camera.translation,
        frame.camera.bearings(frame.camera.pixel_grid()) @ frame.world_from_camera.rotation.T,
        0.01,
    )[1]
    bearings = frame.camera.bearings(frame.camera.pixel_grid())
    without = (empty * bearings[:, 2]).reshape(frame.depth.shape)
    hidden = (frame.depth < without - 0.3).mean()
    assert 0.01 < hidden < 0.5


def test_nobody_stands_in_the_robots_way(query):
    for info in query.infos:
        gap = np.hypot(
            *(np.array(query.visitor_at(info.stamp_ns)) - info.world_from_camera.translation[:2])
        )
        assert gap > 0.7


def test_odometry_drifts_but_not_away():
    drive = Drive(20.0, 2.0, (1.1, 0.6), (0, 0), 0.0, 0.5, 3)
    odometry, truth = drive.odometry(), drive.truth(50)
    assert odometry.poses[0].distance(Pose.identity()) == (0.0, 0.0)
    start = truth.poses[0].inverse()
    off = [
        (start @ t).distance(o)[0] for t, o in zip(truth.poses, odometry.poses, strict=True)
    ]  # fmt: skip
    assert 0.03 < max(off) < 1.0


def test_the_robot_stays_out_of_the_furniture(mapping):
    upright = [p for p in room.furniture() if abs(p.normal[2]) < 0.5 and p.corner[2] > 0.1]
    geometry = raycast.Geometry(upright)
    angles = np.linspace(0, 2 * np.pi, 36, endpoint=False)
    rays = np.stack([np.cos(angles), np.sin(angles), 0 * angles], 1)
    for info in mapping.infos[::3]:
        at = np.broadcast_to(info.world_from_camera.translation, rays.shape)
        assert geometry.first_hit(at, rays)[1].min() > 0.1


def test_bags_read_back_to_the_same_frames_and_are_kept(tmp_path):
    short = replace(recording.MAPPING, drive=Drive(1.0, 0.1, (1, 0.6), (0, 0), 0, 0.3, 1))
    seen = []
    written = write_sample(
        tmp_path / "room", on_frame=lambda i, n, w: seen.append((i, n)), passes=[short], size=SMALL
    )
    assert seen == [(i, 5) for i in range(1, 6)]
    bag, made = open_recording(written["mapping"]), SampleRecording(short, size=SMALL)
    assert bag.infos[0].camera.size == SMALL and len(bag) == 5
    np.testing.assert_allclose(bag.base_from_camera.matrix(), BASE_FROM_CAMERA.matrix(), atol=1e-9)
    for read, wanted in zip(bag, made, strict=True):
        assert read.stamp_ns == wanted.stamp_ns
        assert read.world_from_camera.distance(wanted.world_from_camera)[0] < 1e-3
        assert np.abs(read.image.astype(int) - wanted.image).mean() < 6
    assert len(bag.odometry()) == 50
    write_sample(
        tmp_path / "room",
        on_frame=lambda *_: pytest.fail("made a second time"),
        passes=[short],
        size=SMALL,
    )


def test_rows_and_columns_of_a_wall_are_cut_around_its_doorways():
    grey = textures.plain((0.5, 0.5, 0.5))
    made = plan.Finish(grey, grey, grey)
    west = plan.Space((0.0, 0.0), (3.0, 2.0), made)
    east = plan.Space((3.0 + plan.WALL, 0.0), (5.0, 2.0), made)
    door = plan.Doorway((3.0 + plan.WALL / 2, 1.2), 0, 0.8, 2.0, grey)
    geometry = raycast.Geometry(plan.built([west, east], [door], 10.0))
    eye = np.array([1.0, 1.2, 11.0])
    # Through the door to the far wall; against its lintel's wall; beside it; left; floor; ceiling.
    rays = np.array([
        [1.0, 0, 0], [2.0, 0, 1.2], [2.0, -0.5, 0], [-1.0, 0, 0], [0, 0, -1.0], [0, 0, 1.0],
    ])  # fmt: skip
    lengths = np.linalg.norm(rays, axis=1)
    _, distance = geometry.first_hit(np.tile(eye, (6, 1)), rays / lengths[:, None])
    np.testing.assert_allclose(distance, [4.0, *lengths[1:3], 1.0, 1.0, 1.6], atol=1e-6)


def _corridor(name, rooms=2, seed=1):
    passes = places.Request("corridor", rooms, alike=True, seed=seed).passes()
    settings = next(p for p in passes if p.name == name)
    return SampleRecording(replace(settings, texel=0.05), seed, (80, 60))


@pytest.fixture(scope="module")
def corridors():
    names = ("query", "relit", "rearranged", "lookalike", "foreign")
    recordings = {name: _corridor(name) for name in names}
    start = recordings["query"].infos[0].stamp_ns
    found = {}
    for name, made in recordings.items():  # the same moments of the same drive
        stamps = [(info.stamp_ns - start) * 1e-9 for info in made.infos]
        at = [int(np.argmin(np.abs(np.array(stamps) - second))) for second in range(0, 28, 2)]
        found[name] = list(made.frames(at))
    return found


def _difference(a, b):
    grey = [
        cv2.cvtColor(f.image, cv2.COLOR_RGB2GRAY).astype(float) for f in (a, b)
    ]  # fmt: skip
    return 1 - np.corrcoef(grey[0].ravel(), grey[1].ravel())[0, 1]


def test_copies_of_a_corridor_are_as_unlike_it_as_their_names_say(corridors):
    seen = {}
    for name in ("relit", "rearranged", "lookalike", "foreign"):
        pairs = list(zip(corridors["query"], corridors[name], strict=True))
        for one, other in pairs:
            assert one.world_from_camera.distance(other.world_from_camera)[0] < 0.02
        shape = [np.median(np.abs(one.depth - other.depth)) for one, other in pairs]
        seen[name] = np.median([_difference(*pair) for pair in pairs]), np.mean(shape)
    assert seen["relit"][0] < seen["foreign"][0] and seen["lookalike"][0] < seen["foreign"][0]
    # light and small things leave the walls and the furniture where they are
    assert max(seen["relit"][1], seen["lookalike"][1]) < 0.01 < seen["rearranged"][1]
    query, lookalike, relit = (corridors[n] for n in ("query", "lookalike", "relit"))
    brightness = [np.mean([f.image.mean() for f in frames]) for frames in (query, relit)]
    assert brightness[1] < 0.85 * brightness[0]
    assert min(_difference(*pair) for pair in zip(query, lookalike, strict=True)) > 0.002


@pytest.mark.parametrize("other", ["lookalike", "foreign"])
def test_walls_of_another_corridor_are_worn_in_another_way(other):
    """Whatever its colour: a map compares grey values without their mean and contrast."""
    worn = []
    for name in ("query", other):
        settings = _corridor(name).settings
        patches = settings.patches()
        walls = [i for i, p in enumerate(patches) if p.make is None and abs(p.normal[2]) < 0.1]
        wall = max(walls, key=lambda i: np.linalg.norm(patches[i].along))
        texture = raycast.paint(patches, 1, settings.copy, 0.02)[wall].mean(axis=2)
        worn.append(cv2.resize(texture, (200, 60)).ravel())
    assert np.corrcoef(*worn)[0, 1] < 0.3


def test_alike_rooms_are_furnished_alike_and_others_are_not():
    def rooms(alike):
        return [furnishing.furnished(furnishing.Style(4, alike), n) for n in (0, 1)]

    for alike in (True, False):
        first, second = rooms(alike)
        made = [[p.make for p in parts if p.make is not None] for parts in (first, second)]
        assert (made[0] == made[1]) == alike
        assert any(p.make is None for p in first)  # its small things
    again = rooms(True)
    for one, other in zip(rooms(True)[0], again[0], strict=True):
        np.testing.assert_array_equal(one.corner, other.corner)


@pytest.mark.parametrize("place", ["corridor", "building"])
def test_the_robot_drives_through_doors_and_not_through_walls(place):
    settings = places.Request(place, 4, alike=True).passes()[0]
    made = SampleRecording(replace(settings, rate_hz=3.0))
    patches = [p for p in made.settings.patches() if abs(p.normal[2]) < 0.5]
    geometry = raycast.Geometry(patches)
    centres = np.stack([i.world_from_camera.translation for i in made.infos])
    driven = np.diff([i.stamp_ns for i in made.infos]) < 1e9  # carried up a stair otherwise
    assert not geometry.blocked(centres[:-1][driven], centres[1:][driven]).any()
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    rays = np.stack([np.cos(angles), np.sin(angles), 0 * angles], 1)
    for centre in centres[::5]:
        assert geometry.first_hit(np.tile(centre, (24, 1)), rays)[1].min() > 0.12
    storeys = (corridor.corridor(4),) if place == "corridor" else building.building(4, 2)
    for storey in storeys:
        here = centres[np.abs(centres[:, 2] - storey.level) < 1.5]
        for site in storey.sites:  # it was in every room
            assert np.linalg.norm(here[:, :2] - site.centre, axis=1).min() < 0.7
    assert sorted(s.number for storey in storeys for s in storey.sites) == [0, 1, 2, 3]


def test_a_building_is_large_and_its_floors_lie_one_above_the_other():
    mapping, query = places.Request("building", 12, 2).passes()
    corners = np.stack([p.corner for p in mapping.patches()])
    np.testing.assert_allclose(np.ptp(corners[:, :2], axis=0), [40.0, 25.0], atol=0.5)
    assert corners[:, 2].max() == pytest.approx(3.2 + plan.HEIGHT)
    for settings, floors in ((mapping, [0.0, 3.2]), (query, [3.2, 0.0])):
        legs = settings.drive.legs
        starts = [settings.drive.map_from_base(start).translation[2] for start, _ in legs]
        np.testing.assert_allclose(starts, floors, atol=1e-6)
        assert legs[1][0] - sum(legs[0]) == pytest.approx(20.0)
    assert len(SampleRecording(mapping)) > 2 * len(SampleRecording(query)) > 200


def test_a_carried_robots_odometry_goes_on_as_if_it_had_stood():
    up = drive.Route(
        (((0, 0, 0), (1, 0, 0), (2, 0, 0)), ((2, 1, 3.0), (2, 2, 3.0), (2, 4, 3.0))),
        0.5, 0.0, 0.0, 5, carried_s=10.0,
    )  # fmt: skip
    assert up.legs == ((0.0, 4.0), (14.0, 6.0))
    assert up.map_from_base(14.0).translation[2] == pytest.approx(3.0)
    odometry, truth = up.odometry(), up.truth(50)
    assert len(odometry) == 500 and np.diff(odometry.stamps_ns).max() > 9e9
    driven = np.linalg.norm(odometry.poses[-1].translation[:2])
    assert (
        max(p.translation[2] for p in odometry.poses) < 0.2 and truth.poses[-1].translation[2] == 3
    )
    # 2 m, then 3 m further on the way it looked then, which is to the left of it in the map
    assert driven == pytest.approx(5.0, abs=0.3)


def test_what_cannot_be_made_is_said(capsys, tmp_path):
    from crossfire_core.cli.shell import run

    wrong = (
        (["a", "--place", "castle"], "choose room, corridor"),
        (["room", "--alike"], "--place corridor"),
        (["corridor", "--floors", "2"], "--place building"),
        (["building", "--rooms", "90"], "26 rooms a floor"),
        (["corridor", "--only", "mapping,cellar"], "no pass 'cellar'"),
        (["corridor", "--rooms", "1"], "rooms"),
        (["corridor", "--seed", "-1"], "seed"),
    )
    for (folder, *rest), hint in wrong:
        assert run(["sample", str(tmp_path / folder), *rest]) == 2
        told = capsys.readouterr().err.strip().splitlines()
        assert len(told) == 1 and hint in told[0]
        assert not (tmp_path / folder).exists()
