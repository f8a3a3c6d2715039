"""From a recording to a neural map."""
