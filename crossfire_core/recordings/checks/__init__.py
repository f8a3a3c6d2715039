"""What can be wrong with a recording, one file a kind; ``recordings.check`` puts them together."""
