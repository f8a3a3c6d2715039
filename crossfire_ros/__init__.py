"""CROSSFIRE on a robot: the ROS 2 node, and bags played to it.

Localization itself lives in :mod:`crossfire_core`; here messages are converted, threads are kept
apart and files are found.
"""
