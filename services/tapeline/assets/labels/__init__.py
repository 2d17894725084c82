"""Labels: what a network learns to say. One module per family; formulas are in the docstrings."""
