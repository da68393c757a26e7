"""The services of a cluster. None imports another."""
