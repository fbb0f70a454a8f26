"""A run that is struck on purpose, before it costs GPU hours: whether it heals, and how soon."""
