"""Dagster's assets: thin, each body calls the library. Nothing here knows how partitions, sensors and schedules are
chosen: that is `pipelines`, which hands it in."""
