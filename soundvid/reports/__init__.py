"""Pages and figures that a person looks at."""
