"""The way into the node's process: what must be set before numpy and torch are loaded."""

from __future__ import annotations

import signal


def localization_node() -> None:
    """Run the node; see :func:`crossfire_ros.localization_node.main`."""
    # Until the node listens to signals itself, they end the process at once: Python's own handler
    # waits for the import of a library to finish, and then prints a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    # Libraries read these settings once, when they are loaded, which the import below does.
    from crossfire_core.field.threads import quiet_thread_pools

    quiet_thread_pools()
    # What the map needs as well, and now: a library that is being loaded keeps the interpreter to
    # itself, for seconds on a busy machine, and later nobody would hear a signal meanwhile.
    import crossfire_core.localization.localizer
    import crossfire_core.maps.neural_map  # noqa: F401
    from crossfire_ros.localization_node import main

    main()


if __name__ == "__main__":
    localization_node()
