"""A run: one training execution of a blueprint.

Read in this order: `transitions.py` (what may follow what), `state.py` (what a run is, evolve), `aggregate.py`
(decide), `lease.py` (decide, for who holds a run), `commands.py` (what the service asks of a run), `tables.py`,
`projection.py`, `queries.py`, `handlers.py` (verbs of users), `reports.py` (verbs of agents).
"""
