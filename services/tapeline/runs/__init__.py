"""The runs service: runs, blueprints, devices, checkpoints and measurements; scheduling and leases.

Read in this order: `run/aggregate.py`, `dispatcher.py`, `leases.py`, `schedule.py`, `jobs.py`,
`run/handlers.py`, `run/reports.py`, `app.py`.
"""
