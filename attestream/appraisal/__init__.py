"""Appraisal: evidence, policy, state and time in; verdict, findings and new state out. Pure: it can be repeated."""
