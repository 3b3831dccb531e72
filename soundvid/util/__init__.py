"""What every package may use: atomic files, locks, hashing, redaction of secrets, progress callbacks."""
