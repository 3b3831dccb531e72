"""What a user does with a run: train, open, evaluate, generate, report."""
