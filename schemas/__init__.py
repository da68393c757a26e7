"""The wire contract of Attestream: messages, subjects, streams and buckets.

Everything that crosses the bus is declared here and nowhere else. The package imports nothing of ours, so that a program
that only wants to speak to an Attestream cluster can depend on it alone.
"""
