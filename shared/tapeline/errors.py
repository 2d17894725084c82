"""The tree of errors: one root, one table from code to status and class.

    TapelineError
    ├─ OpenApiException
    │  └─ ApiException
    │     ├─ ValidationError            ├─ PermissionDeniedError   ├─ ConflictError
    │     ├─ NotFoundError              ├─ UnavailableError        │  ├─ AlreadyExistsError
    │     │  ├─ RunDoesNotExistError    └─ OutcomeUnknown          └─ ReadOnly
    │     │  ├─ BlueprintDoesNotExistError
    │     │  └─ TableDoesNotExistError
    └─ LitError
       ├─ LitModelError
       └─ LitVaultError

Services and libraries raise `TapelineError(message, code=..., hint=...)`; it crosses the bus as a
`Rejected` reply and leaves the SDK as the class that `CODES` names.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple, Self


class TapelineError(Exception):
    """What went wrong, in one sentence, with a code from `CODES` and a hint that names the remedy."""

    def __init__(
        self, message: str, *, code: str | int | None = "internal", hint: str | None = None, data: Any = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.hint = hint
        self.data = data

    def __str__(self) -> str:
        return f"{self.message}\nHint: {self.hint}" if self.hint else self.message

    def __reduce__(self) -> tuple[Any, ...]:
        return (_revive, (type(self), self.args, self.__dict__))


def _revive(kind: type[TapelineError], args: tuple[Any, ...], state: dict[str, Any]) -> TapelineError:
    # The built-in class that lays out the object makes it: a class may have two built-in parents.
    builtin: type = kind
    while builtin.__module__ != "builtins":
        builtin = builtin.__base__  # type: ignore[assignment]
    error: TapelineError = builtin.__new__(kind, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class OpenApiException(TapelineError):
    """Root of what a refused or failed request raises."""


class ApiException(OpenApiException):
    """A request that was refused or got no answer; `status` is the HTTP-like number of its code.

    `reason` is the code, `body` the reply as JSON text, `data` its parsed form. `http_resp` is accepted
    and kept for users of that interface.
    """

    def __init__(
        self,
        status: int | None = None,
        reason: str | None = None,
        http_resp: Any = None,
        *,
        body: str | None = None,
        data: Any | None = None,
    ) -> None:
        if data is None and body:
            try:
                data = json.loads(body)
            except ValueError:
                data = None
        fault = data.get("error", data) if isinstance(data, dict) else {}
        message = str(fault.get("message") or reason or "the request failed")
        super().__init__(message, code=reason, hint=fault.get("hint"), data=data)
        self.status = status
        self.reason = reason
        self.http_resp = http_resp
        self.body = body

    @classmethod
    def of(cls, code: str, message: str, *, hint: str | None = None, **more: Any) -> Self:
        """The error of this class with a code, a sentence and a hint, as a reply would have made it."""
        fault = {"code": code, "status": status_of(code), "message": message, "hint": hint} | more
        return cls(status_of(code), code, body=json.dumps({"error": fault}, default=str))

    def __str__(self) -> str:
        text = f"({self.status}) {self.reason}: {self.message}"
        return f"{text}\nHint: {self.hint}" if self.hint else text


APIException = ApiException


class ValidationError(ApiException, ValueError):
    """A config, quantity, version, canvas or command that is malformed; `errors` lists every fault."""

    @property
    def errors(self) -> list[dict[str, Any]]:
        """All faults as `{path, message, value, hint}`; empty when the refusal has no list."""
        fault = self.data.get("error", self.data) if isinstance(self.data, dict) else {}
        details = fault.get("data") or {}
        found = details.get("errors", []) if isinstance(details, dict) else details
        return list(found)


class NotFoundError(ApiException, LookupError):
    """What was named does not exist, was deleted, or belongs to another team."""


class RunDoesNotExistError(NotFoundError):
    """No such run."""


class BlueprintDoesNotExistError(NotFoundError):
    """No blueprint with that id, or of that name and version."""

    def __init__(
        self,
        id: str | int | None = None,
        name: str | None = None,
        version_ilike: Any = None,
        *,
        body: str | None = None,
        data: Any | None = None,
    ) -> None:
        if body is None:
            named = ", ".join(
                f"{key} {value!r}"
                for key, value in (("id", id), ("name", name), ("version", version_ilike))
                if value is not None
            )
            fault = {
                "code": "not_found",
                "message": f"no blueprint with {named or 'that id'}",
                "hint": "tapeline blueprint ls",
            }
            body = json.dumps({"error": fault})
        super().__init__(404, "not_found", body=body, data=data)
        self.id = id
        self.name = name
        self.version_ilike = version_ilike

    @classmethod
    def of(cls, code: str, message: str, *, hint: str | None = None, **more: Any) -> Self:
        fault = {"code": code, "status": 404, "message": message, "hint": hint} | more
        return cls(body=json.dumps({"error": fault}, default=str))


class TableDoesNotExistError(NotFoundError, FileNotFoundError):
    """No such table."""


class ConflictError(ApiException):
    """The thing is not in a state that allows this, or another change came first."""


class ReadOnly(ConflictError):
    """The past does not change: a command was given to a client of what was."""


class AlreadyExistsError(ConflictError, ValueError, FileExistsError):
    """The name, hash or version is taken."""


class PermissionDeniedError(ApiException):
    """No key, a bad key, or a right that this principal does not have."""


class UnavailableError(ApiException, ConnectionError):
    """No service answered; nothing is known to have happened, and the call may be repeated."""


class OutcomeUnknown(ApiException):
    """A command was sent and no answer came; repeat it with `command_id`, it cannot happen twice."""

    command_id: str | None = None


class LitError(TapelineError):
    """Root of the errors of experiments, canvases, assets and the vault."""

    def __init__(self, *args: object, code: int | None = None) -> None:
        super().__init__(str(args[0]) if args else "", code=code)
        self.args = args

    def __str__(self) -> str:
        return Exception.__str__(self)


class LitModelError(LitError):
    """An experiment, canvas or asset could not do what was asked."""


class LitVaultError(LitError):
    """A vault item could not do what was asked."""


LITModelException = LitModelError


class Code(NamedTuple):
    """A code's HTTP-like status, the class that the SDK raises, and the exit code of the command line."""

    status: int
    kind: type[ApiException]
    exit: int


CODES: dict[str, Code] = {
    "invalid": Code(422, ValidationError, 7),
    "unauthenticated": Code(401, PermissionDeniedError, 6),
    "permission_denied": Code(403, PermissionDeniedError, 6),
    "forbidden": Code(403, PermissionDeniedError, 6),
    "denied": Code(403, PermissionDeniedError, 6),
    "not_found": Code(404, NotFoundError, 3),
    "conflict": Code(409, ConflictError, 4),
    "already_exists": Code(409, AlreadyExistsError, 4),
    "fenced": Code(409, ConflictError, 4),
    "behind": Code(409, ConflictError, 8),
    "too_large": Code(413, ValidationError, 7),
    "version_mismatch": Code(426, ApiException, 8),
    "rate_limited": Code(429, ApiException, 8),
    "internal": Code(500, ApiException, 1),
    "unavailable": Code(503, UnavailableError, 8),
    "insufficient_storage": Code(507, UnavailableError, 7),
    "timeout": Code(504, OutcomeUnknown, 8),
    "unknown_outcome": Code(504, OutcomeUnknown, 8),
    # the log
    "log_damaged": Code(409, ConflictError, 5),
    "log_mismatch": Code(409, ConflictError, 4),
    "log_behind_seal": Code(409, ConflictError, 4),
    "schema_unknown": Code(422, ValidationError, 7),
    "topology_mismatch": Code(409, ConflictError, 5),
    "not_empty": Code(409, ConflictError, 4),
    "gap": Code(409, ConflictError, 4),
    # start-up
    "already_running": Code(409, ConflictError, 4),
    "codec_missing": Code(424, ApiException, 8),
    "dependency_missing": Code(424, ApiException, 8),
    "unsupported": Code(422, ValidationError, 7),
    # tapes and bars
    "invalid_argument": Code(422, ValidationError, 7),
    "invalid_timestamp": Code(422, ValidationError, 7),
    "invalid_row": Code(422, ValidationError, 7),
    "invalid_volume": Code(422, ValidationError, 7),
    "invalid_date": Code(422, ValidationError, 7),
    "empty_input": Code(422, ValidationError, 7),
    "tape_unsorted": Code(422, ValidationError, 7),
    "tape_corrupt": Code(422, ValidationError, 5),
    "too_many_bad_rows": Code(422, ValidationError, 7),
    "timestamp_unit_ambiguous": Code(422, ValidationError, 7),
    "timezone_required": Code(422, ValidationError, 7),
    "column_missing": Code(422, ValidationError, 7),
    "calendar_unknown": Code(422, ValidationError, 7),
    "unsupported_format": Code(422, ValidationError, 7),
    "limit_exceeded": Code(413, ValidationError, 7),
    "overflow": Code(422, ValidationError, 7),
    "lookahead_refused": Code(422, ValidationError, 7),
    # assets
    "unknown_feature": Code(422, ValidationError, 7),
    "unknown_label": Code(422, ValidationError, 7),
    "unknown_component": Code(422, ValidationError, 7),
    "unknown_tape": Code(422, ValidationError, 7),
    "empty_range": Code(422, ValidationError, 7),
    "too_few_sessions": Code(422, ValidationError, 7),
    "duplicate_name": Code(422, ValidationError, 7),
    "spec_too_large": Code(413, ValidationError, 7),
    "leak_found": Code(422, ValidationError, 7),
    "not_reproducible": Code(422, ValidationError, 5),
    "not_rebuildable": Code(422, ValidationError, 7),
    "asset_refused": Code(422, ValidationError, 7),
    "corrupt": Code(422, ValidationError, 5),
    # canvases and models
    "canvas_invalid": Code(422, ValidationError, 7),
    "canvas_too_large": Code(413, ValidationError, 7),
    "canvas_too_deep": Code(413, ValidationError, 7),
    "schema_too_new": Code(422, ValidationError, 7),
    "no_asset": Code(422, ValidationError, 7),
    "model_refused": Code(422, ValidationError, 7),
    # training
    "fingerprint_refused": Code(409, ConflictError, 4),
    "nan_loss": Code(422, ValidationError, 7),
    # devices
    "unknown_device": Code(422, ValidationError, 7),
    "ambiguous_device": Code(422, ValidationError, 7),
}


def status_of(code: str | int | None) -> int:
    """The HTTP-like status of a code; 400 for one that this version does not know."""
    return CODES[code].status if isinstance(code, str) and code in CODES else 400


def exit_of(code: str | int | None) -> int:
    """The exit code of the command line for a code; 1 for one that this version does not know."""
    return CODES[code].exit if isinstance(code, str) and code in CODES else 1


def fault(error: TapelineError) -> dict[str, Any]:
    """An error as it crosses the bus: `{code, status, message, hint, data}`."""
    return {
        "code": error.code,
        "status": status_of(error.code),
        "message": error.message,
        "hint": error.hint,
        "data": error.data,
    }


def from_fault(fault: dict[str, Any], body: str) -> ApiException:
    """The exception that a reply's `error` object stands for."""
    code = str(fault.get("code", "internal"))
    named = {
        "run": RunDoesNotExistError,
        "blueprint": BlueprintDoesNotExistError,
        "table": TableDoesNotExistError,
    }
    details = fault.get("data")
    kind = CODES[code].kind if code in CODES else ApiException
    if code == "not_found" and isinstance(details, dict):
        kind = named.get(str(details.get("kind")), kind)
    if kind is BlueprintDoesNotExistError:
        return BlueprintDoesNotExistError(body=body)
    return kind(status_of(code), code, body=body)
