"""A real Slurm on one machine, for development and tests."""

from hpckit.devcluster.cluster import DevCluster, default_folder

__all__ = ["DevCluster", "default_folder"]
