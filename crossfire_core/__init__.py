"""CROSSFIRE: camera relocalization in a neural map, without ROS.

Nothing heavy is imported here: ``import crossfire_core`` costs milliseconds, each room is
imported where it is used.
"""

__version__ = "0.1.0"
