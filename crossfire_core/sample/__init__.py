"""A made-up recording of a furnished room, to try everything without a robot."""
