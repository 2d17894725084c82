"""What an error becomes on the command line: a sentence or a JSON object on standard error, and an exit code."""

from __future__ import annotations

import json
import sys
from typing import Any

from tapeline.errors import LitError, TapelineError, exit_of, status_of
from tapeline.sdk.errors import faults_of, listed

WRONG_USAGE = 2
INTERRUPTED = 130


def tell(error: Exception, *, as_json: bool) -> int:
    """Print an error; its exit code."""
    found = described(error)
    code = found.pop("exit")
    if as_json:
        if faults := faults_of(_cause(error)):
            found["errors"] = faults
        print(json.dumps({"error": found}, ensure_ascii=False), file=sys.stderr)
    else:
        print(f"Error: {found['message']}", file=sys.stderr)
        for fault in listed(_cause(error)):
            print(f"  {fault}", file=sys.stderr)
        if found["hint"]:
            print(f"Hint: {found['hint']}", file=sys.stderr)
    return int(code)


def described(error: Exception) -> dict[str, Any]:
    """An error as `{code, status, message, hint, exit}`."""
    cause = _cause(error)
    if isinstance(cause, TapelineError) and not isinstance(cause, LitError):
        status = int(getattr(cause, "status", None) or status_of(cause.code))
        return _fault(str(cause.code), status, cause.message, cause.hint, exit_of(cause.code))
    if isinstance(cause, LitError):
        return _fault("invalid", int(cause.code or 422), str(cause), cause.hint, 7)
    if isinstance(cause, FileNotFoundError):
        return _fault("not_found", 404, _os_text(cause), "name a file that exists", 3)
    if isinstance(cause, FileExistsError):
        return _fault("already_exists", 409, _os_text(cause), "choose another name", 4)
    if isinstance(cause, TimeoutError):
        return _fault("timeout", 504, str(cause) or "the time is over", None, 8)
    if isinstance(cause, ValueError | TypeError | IndexError | NotADirectoryError | IsADirectoryError):
        return _fault("invalid_argument", 422, str(cause), None, WRONG_USAGE)
    if isinstance(cause, OSError):
        return _fault("internal", 500, _os_text(cause), None, 1)
    return _fault("internal", 500, f"{type(cause).__name__}: {cause}", "set TAPELINE_TRACEBACK=1 to see where", 1)


def is_interrupt(error: BaseException) -> bool:
    """Whether an error came up while Ctrl-C was being obeyed: what had to be closed was cut off, too."""
    seen: set[int] = set()
    before: BaseException | None = error
    while before is not None and id(before) not in seen:
        if isinstance(before, KeyboardInterrupt):
            return True
        seen.add(id(before))
        before = before.__cause__ or before.__context__
    return False


def _cause(error: BaseException) -> BaseException:
    # A LitError only names the function; what went wrong is what it was raised from.
    while isinstance(error, LitError) and error.__cause__ is not None:
        error = error.__cause__
    return error


def _os_text(error: OSError) -> str:
    return f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error)


def _fault(code: str, status: int, message: str, hint: str | None, exit: int) -> dict[str, Any]:
    return {"code": code, "status": status, "message": message, "hint": hint, "exit": exit}
