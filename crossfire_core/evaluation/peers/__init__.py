"""Other methods on the same frames: sparse features with triangulation, image retrieval."""
