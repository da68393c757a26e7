"""Attestream and the incumbent side by side: both have the same attesters and do their work in one run on one machine."""
