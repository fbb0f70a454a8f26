"""How well divergences are noticed: a corpus of trainings, a judge, and the rules others use.

    python -m benchmarks.detection.generate    # once: trains the small models, 5 to 10 minutes
    python -m benchmarks.detection.judge --families tune
    python -m benchmarks.detection.story

The corpus is kept in $HPCKIT_BENCH_CACHE, by default ~/.cache/hpckit-bench. A detector is tuned on
one half and tested on the other: `split.py` says which kind of model is in which.
"""
