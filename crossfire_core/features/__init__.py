"""Descriptors of an image: a dense map, and one vector for the whole."""
