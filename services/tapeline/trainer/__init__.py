"""The trainer: an agent that owns devices and leases runs, and the child process that trains one run.

It decides nothing: the runs service decides, the agent carries out and reports. Reading order: `agent.py`
(offers, claims, renewals), `hold.py` (one run in one lease epoch), `outbox.py` and `journal.py` (what was
said and not yet answered), `launch.py` and `sandbox.py` (the child's process), `pipe.py` (what the two say
to each other), then on the other side of the pipe `child.py`, `job.py` and `blueprints/`.
"""
