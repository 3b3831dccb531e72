"""From sources to a version: discover -> render -> pack -> release. The command line and Dagster run the same steps."""
