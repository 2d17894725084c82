"""A run: one training execution of a blueprint.

Read in this order: `aggregate.py` (what a run is, the transition table, decide, evolve), `commands.py` (what
the service asks of a run), `tables.py`, `projection.py`, `queries.py`, `handlers.py` (verbs of users),
`reports.py` (verbs of agents).
"""
