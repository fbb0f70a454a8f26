"""Closed loop: trainings with settings that are wrong, and what each policy makes of them.

    python -m benchmarks.rescue.judge               # all kinds, all policies: about 20 minutes
    python -m benchmarks.rescue.judge --kinds lstm --policies plain hpckit --seeds 3
    python -m benchmarks.rescue.judge --healthy     # right settings: nobody should do anything

A run is rescued when its loss on data held out ends within 10% of what the right settings would
have brought from the same seed. Everything runs on one thread, on generated data.
"""
