"""The whole machine-learning loop as one Dagster asset graph that closes itself."""
