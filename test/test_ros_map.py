"""The map's grid and cloud in a live graph, as RViz and Nav2 get them."""

from __future__ import annotations

import numpy as np
import pytest
from nav_msgs.msg import OccupancyGrid
from ros_graph import FakeLocalizer, graph
from sensor_msgs.msg import PointCloud2

from crossfire_core.export.cloud import Cloud
from crossfire_core.export.geometry import MapGeometry
from crossfire_core.export.occupancy import OccupancyGrid as Grid
from crossfire_core.geometry import Pose
from crossfire_ros.conversions import pose_from_message
from crossfire_ros.map_loading import LoadedMap, ReadMap

CELLS = np.array([[0, 100, -1], [-1, 0, 100]], np.int8)
CORNER = Pose.exp((1.5, -2.5, 0.25, 0.0, 0.0, 0.4))
CLOUD = Cloud(
    np.array([[1.0, 2.0, 3.0], [-4.0, 5.5, 0.25]], np.float32),
    np.array([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]], np.float32),
    np.array([[255, 128, 7], [1, 2, 3]], np.uint8),
    0.02,
)


def load(settings) -> ReadMap:
    grid = Grid(CELLS, 0.05, (1.5, -2.5, 0.4)) if settings.node.publish_map else None
    cloud = CLOUD if settings.node.publish_cloud else None
    loaded = LoadedMap(FakeLocalizer(), "hall", geometry=MapGeometry(grid, CORNER, cloud))
    return lambda: loaded


def test_grid_and_cloud_reach_a_late_listener() -> None:
    with graph(load, publish_map=True, publish_cloud=True) as g:
        g.activate()
        grids = g.listen_late("~/map", OccupancyGrid)
        clouds = g.listen_late("~/map_cloud", PointCloud2)
        g.wait(lambda: grids and clouds, "no grid or no cloud came")
        grid, cloud = grids[0], clouds[0]
    assert grid.header.frame_id == cloud.header.frame_id == "hall"
    assert (grid.info.width, grid.info.height) == (3, 2)
    assert grid.info.resolution == pytest.approx(0.05)
    # row by row from the lowest y, x first
    assert list(grid.data) == [0, 100, -1, -1, 0, 100]
    assert pose_from_message(grid.info.origin).distance(CORNER)[0] < 1e-9
    assert [(f.name, f.offset, f.datatype) for f in cloud.fields] == [
        ("x", 0, 7), ("y", 4, 7), ("z", 8, 7), ("rgb", 12, 7),
    ]  # fmt: skip
    assert (cloud.width, cloud.height, cloud.point_step, cloud.row_step) == (2, 1, 16, 32)
    raw = bytes(cloud.data)
    np.testing.assert_array_equal(np.frombuffer(raw[16:28], "<f4"), [-4.0, 5.5, 0.25])
    # PCL's order in memory is blue, green, red
    assert raw[12:16] == bytes([7, 128, 255, 0])


def test_nothing_is_published_that_was_not_asked_for() -> None:
    with graph(load) as g:
        g.activate()
        topics = {name for name, _ in g.peer.get_topic_names_and_types()}
        own = [p.topic_name for p in g.node.publishers]
    assert not any(name.endswith(("/map", "/map_cloud")) for name in [*topics, *own])
