"""Trainings whose loop a framework owns: one callback, and the run is watched, saved and healed."""
