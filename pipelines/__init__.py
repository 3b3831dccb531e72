"""The Dagster code location: which recipes there are, and how partitions, sensors, schedules and automation make their
assets (`assets`) happen. One module for each concern; `definitions` puts them together."""
