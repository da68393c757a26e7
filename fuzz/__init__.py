"""Coverage-guided fuzzing of every parser. ``python -m fuzz --seconds N`` runs each target for N seconds."""
