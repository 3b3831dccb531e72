"""Networks of others, as they were published: one registry of their files (`weights`), and a call for each."""
