"""Features: numbers computed from a stored clip's pictures and sound. One file each, listed in `registry`."""
