"""A map's geometry for other programs: occupancy grids, clouds, meshes."""
