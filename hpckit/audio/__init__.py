"""What audio trainings share: sounds to train on, and losses that survive digital silence."""
