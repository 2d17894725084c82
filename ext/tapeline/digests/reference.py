"""SHA-256 of many messages in plain Python, one after another; `lanes.h` must agree with it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any


def sha256_of_each(messages: Sequence[Any]) -> list[str]:
    """The SHA-256 of each message, in hex."""
    return [hashlib.sha256(message).hexdigest() for message in messages]
