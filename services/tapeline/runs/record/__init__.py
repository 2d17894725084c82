"""What a run keeps besides measurements: inputs, outputs, parameters, metrics tables; copies and forks of runs.

The events are those of the run: they are decided in `tapeline.runs.run.aggregate` and folded in
`tapeline.runs.run.projection`.
"""
