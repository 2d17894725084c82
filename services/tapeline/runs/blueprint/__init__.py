"""Kinds of training: name, version, and the JSON Schema of the config."""
