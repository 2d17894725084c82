"""Measurements of runs: taken in as batches, stored as batches, read as points.

Read in this order: `batch.py` (the bytes of a batch), `intake.py` (gapless and once), `tables.py`,
`projection.py`, `queries.py`.
"""
