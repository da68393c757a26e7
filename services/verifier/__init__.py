"""The verifier: a pool of workers that share out partitions of agents and appraise their evidence."""
