"""The folder of a run's checkpoints: names, manifests, which to take, which to keep; no torch."""
