"""What a dataset keeps: rules over what was measured of every clip."""
