"""Who is who, and what hostile input gets.

Read in this order: `keys` (identities and their files), `accounts` (teams, users and agents that may sign
in), `redact` (what no log line shows).
"""
