"""Records of models: namespaces, models, and what was kept of each."""
