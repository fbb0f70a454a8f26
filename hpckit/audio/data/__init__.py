"""Sets of sounds that one command fetches, and trainings find by their name."""
