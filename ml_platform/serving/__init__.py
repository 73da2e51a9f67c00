"""Predictions and features on request, without Dagster."""
