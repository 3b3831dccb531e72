"""Which area of a source's pictures is shown: one way each (`video.crop`), listed in `registry`."""
