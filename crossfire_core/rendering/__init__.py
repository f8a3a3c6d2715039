"""From a pose to an image: ray sampling, compositing, the renderer."""
