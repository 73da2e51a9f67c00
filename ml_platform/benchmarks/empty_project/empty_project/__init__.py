"""A Dagster project as its scaffold makes it, with nothing in it: what ours is measured beside."""
