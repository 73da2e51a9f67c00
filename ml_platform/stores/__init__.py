"""Clients of what is outside: the lake, Feast, MLflow, reports. Nothing of Dagster."""
