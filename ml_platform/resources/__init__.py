"""The stores, as Dagster resources."""
