"""Pure functions and frozen values: no clock, no I/O, nothing of Dagster."""
