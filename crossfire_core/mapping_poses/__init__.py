"""Where the poses of the mapping images come from, and making them where the recording has none.

The outcome is again a recording (:class:`.posed.PosedRecording`), so training does not care.
"""
