"""The one place that knows tar, the index of samples, and what a version of a dataset is."""
