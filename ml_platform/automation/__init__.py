"""When and why things run: conditions, sensors and schedules."""
