"""How large a canvas may be."""

from __future__ import annotations

SCHEMA = "tapeline.canvas/1"
SCHEMA_NUMBER = 1

MAX_BYTES = 512 * 1024
MAX_DEPTH = 32
MAX_VALUES = 16_384  # commas outside strings; bounds the time to parse and to walk what was parsed
MAX_NODES = 512
MAX_EDGES = 2048
MAX_UNITS = 65_536
MAX_STACK = 64
MAX_FEATURES = 64
MAX_NAMES = 2048  # features of all inputs together; an asset has 256
MAX_COLUMNS = 4096
MAX_AXES = 8
MAX_TEXT = 4096
MAX_PARAMETERS = 50_000_000
MAX_ACTIVATIONS = 16_777_216
MAX_FAULTS = 100
