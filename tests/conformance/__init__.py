"""The conformance suite: cases of others, run through the public core.

``python -m tests.conformance FOLDER`` reads a folder of cases: one JSON file for each category, ``{"category": ..., "cases":
[...]}``, and data files that the cases name. A case has an ``id``, ``inputs`` and what is ``expected`` of it. The module of
this package that has the name of a category is its adapter: ``run(case, folder) -> Outcome`` calls only the core.
"""
