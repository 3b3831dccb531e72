"""The systems that turn sound into video (and back): networks, losses, and how each samples its data."""
