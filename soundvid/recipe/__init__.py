"""What to build: the recipe's models, its sources, and reading it from YAML with errors that name the line."""
