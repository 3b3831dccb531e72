"""Published data: the tables' schema, versions, shards, tar, verification, and loading for training."""
