"""The vault: named, versioned, loadable models.

Reading order: `aggregate.py`, `handlers.py`, `sources.py` (what it knows of runs, checkpoints, assets and
agents), `projection.py`, `tables.py`, `queries.py`, `app.py`.
"""
