"""Runs that a user's own process trains: started, renewed, measured and ended by it, without an agent."""
