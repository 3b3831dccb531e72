"""Numbers with their N: how near generated video is to the real one, and how well it moves with its sound."""
