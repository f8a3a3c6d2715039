"""The way into the node's process: what must be set before numpy and torch are loaded."""

from __future__ import annotations

from crossfire_core.field.threads import quiet_thread_pools


def localization_node() -> None:
    """Run the node; see :func:`crossfire_ros.localization_node.main`."""
    # Libraries read these settings once, when they are loaded, which the import below does.
    quiet_thread_pools()
    from crossfire_ros.localization_node import main

    main()


if __name__ == "__main__":
    localization_node()
