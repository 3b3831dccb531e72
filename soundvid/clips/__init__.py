"""Which windows of a source become clips (plan), and making them (render)."""
