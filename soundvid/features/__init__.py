"""Numbers computed from a clip's pictures and sound, one row for each video frame."""
