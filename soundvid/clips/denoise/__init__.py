"""Noise reduction of a source's whole track, before clips are cut from it: one method each, listed in `registry`."""
