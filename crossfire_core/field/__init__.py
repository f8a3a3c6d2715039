"""The neural field: hash grids, small networks, and the backends that evaluate them."""
