"""From an image and a prior to a pose, and from a stream of images to a track."""
