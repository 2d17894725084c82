"""What no log line shows: nkey seeds, secrets of stores, and the query of signed URLs."""

from __future__ import annotations

import re
from collections.abc import Mapping, MutableMapping
from typing import Any

REDACTED = "[redacted]"

# Seeds of every nkey role: S, the role's letter, then base32 of 32 bytes and a checksum.
_SEED = re.compile(r"S[ACNOUX][A-Z2-7]{54,56}")
_SIGNED_QUERY = re.compile(
    r"(?i)\b(x-amz-(?:signature|credential|security-token)|x-goog-(?:signature|credential)|"
    r"awsaccesskeyid|signature|sig|access_token|token)=[^&\s\"'<>]+"
)
_NAMED_SECRET = re.compile(
    r"(?i)([\w-]*(?:secret|password|passwd|access_key|api_key|session_token)[\w-]*[\"']?\s*[:=]\s*[\"']?)"
    r"[^\s\"',;&}]+"
)
_SECRET_NAME = re.compile(
    r"(?i)(secret|password|passwd|seed|private_key|access_key|api_key|session_token|authorization)"
)


def redact_text(text: str) -> str:
    """A text with everything that looks like a secret replaced by `[redacted]`."""
    text = _SEED.sub(REDACTED, text)
    text = _SIGNED_QUERY.sub(lambda found: f"{found[1]}={REDACTED}", text)
    return _NAMED_SECRET.sub(lambda found: f"{found[1]}{REDACTED}", text)


def redact(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """The structlog processor: the event with secrets replaced, in nested values too."""
    for name in list(event):
        event[name] = _named(name, event[name])
    return event


def _named(name: str, value: Any) -> Any:
    # A number is never a secret here: the seed of a random generator stays readable.
    if isinstance(value, str | bytes) and value and _SECRET_NAME.search(name):
        return REDACTED
    return _clean(value)


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return redact_text(value)
    if isinstance(value, bytes):
        return redact_text(value.decode("utf-8", "backslashreplace"))
    if isinstance(value, Mapping):
        return {key: _named(key, inner) if isinstance(key, str) else _clean(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_clean(inner) for inner in value]
    if value is None or isinstance(value, bool | int | float):
        return value
    # Anything else is rendered by its text later: look at that text now.
    text = repr(value)
    cleaned = redact_text(text)
    return value if cleaned == text else cleaned
