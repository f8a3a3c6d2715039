"""A map's geometry as messages: what RViz draws and Nav2 plans on."""

from __future__ import annotations

import sys
from array import array

import numpy as np
from nav_msgs.msg import OccupancyGrid
from sensor_msgs.msg import PointCloud2, PointField

from crossfire_core.export import occupancy
from crossfire_core.export.cloud import Cloud
from crossfire_core.geometry import Pose
from crossfire_ros.conversions import pose_to_message, stamp_from_ns


def grid_to_message(
    grid: occupancy.OccupancyGrid, map_from_grid: Pose, frame: str, stamp_ns: int
) -> OccupancyGrid:
    """An occupancy grid whose first cell's corner lies at a pose in the map."""
    message = OccupancyGrid()
    message.header.frame_id, message.header.stamp = frame, stamp_from_ns(stamp_ns)
    message.info.map_load_time = message.header.stamp
    message.info.resolution = grid.resolution
    message.info.height, message.info.width = grid.cells.shape
    message.info.origin = pose_to_message(map_from_grid)
    message.data = array("b", np.ascontiguousarray(grid.cells).tobytes())
    return message


def cloud_to_message(cloud: Cloud, frame: str, stamp_ns: int) -> PointCloud2:
    """A cloud with the fields x, y, z and rgb, as RViz and PCL have them."""
    rows = np.empty(len(cloud), dtype=[("xyz", "=f4", 3), ("rgb", "=u4")])
    rows["xyz"] = cloud.points
    red, green, blue = cloud.colours.astype(np.uint32).T
    rows["rgb"] = red << 16 | green << 8 | blue
    message = PointCloud2(height=1, width=len(cloud), is_dense=True)
    message.header.frame_id, message.header.stamp = frame, stamp_from_ns(stamp_ns)
    message.fields = [
        PointField(name=name, offset=4 * number, datatype=PointField.FLOAT32, count=1)
        for number, name in enumerate(("x", "y", "z", "rgb"))
    ]
    message.point_step, message.row_step = rows.itemsize, rows.nbytes
    message.is_bigendian = sys.byteorder == "big"
    message.data = array("B", rows.tobytes())
    return message
