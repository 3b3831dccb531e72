"""Which part of a source's pictures is shown."""
