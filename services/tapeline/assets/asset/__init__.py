"""Assets: immutable data sets cut from tapes by a build.

`spec` (what a user asks for), `aggregate`, `handlers`, `builder` (the task that carries builds out), then
`../build.py` (the build itself, a function of spec and tapes), `projection`, `tables`, `queries`.
"""
