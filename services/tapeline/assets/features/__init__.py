"""Features: what a network is given. One module per family; formulas are in the docstrings."""
