"""One training loop for every system: steps, precision, checkpoints, resuming, logging."""
