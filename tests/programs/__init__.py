"""Trainings as other people write them: they import nothing of hpckit."""
