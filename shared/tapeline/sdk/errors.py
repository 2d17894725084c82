"""The errors that the SDK raises, and the decorator that gives a family of functions one error."""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, cast

from tapeline.errors import (
    AlreadyExistsError,
    APIException,
    ApiException,
    BlueprintDoesNotExistError,
    ConflictError,
    LitError,
    LitModelError,
    LITModelException,
    LitVaultError,
    NotFoundError,
    OpenApiException,
    OutcomeUnknown,
    PermissionDeniedError,
    ReadOnly,
    RunDoesNotExistError,
    TableDoesNotExistError,
    TapelineError,
    UnavailableError,
    ValidationError,
    fault,
    from_fault,
)

__all__ = [
    "APIException", "AlreadyExistsError", "ApiException", "BlueprintDoesNotExistError", "ConflictError",
    "LITModelException", "LitError", "LitModelError", "LitVaultError", "NotFoundError", "OpenApiException",
    "OutcomeUnknown", "PermissionDeniedError", "ReadOnly", "RunDoesNotExistError", "TableDoesNotExistError",
    "TapelineError", "UnavailableError", "ValidationError", "lit_error_handler",
]  # fmt: skip


@contextmanager
def translated() -> Iterator[None]:
    """Raise what our libraries refuse as the class that its code has in the SDK."""
    try:
        yield
    except (ApiException, LitError):
        raise
    except TapelineError as error:
        raise api_error(error) from error


def api_error(error: TapelineError) -> ApiException:
    """The error of the SDK that has the code, message and hint of a library's error."""
    told = fault(error)
    return from_fault(told, json.dumps({"error": told}, default=str))


def faults_of(error: BaseException) -> list[dict[str, Any]]:
    """The faults that a refusal lists, each with its place, message and hint; none for another error."""
    data = getattr(error, "data", None)
    told = data.get("error", data) if isinstance(data, dict) else None
    details = told.get("data", told) if isinstance(told, dict) else None
    found = details.get("errors") if isinstance(details, dict) else None
    return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []


def listed(error: BaseException, most: int = 20) -> list[str]:
    """A line for each fault of a refusal that has several: where, what, and the remedy."""
    found = faults_of(error)
    lines = []
    for each in found[:most]:
        place = each.get("pointer") or "/".join(map(str, each.get("path") or []))
        of = f"{each['node']} " if each.get("node") else ""
        lines.append(f"{of}{place}: {each.get('message')}" + (f" ({each['hint']})" if each.get("hint") else ""))
    return lines if len(found) > 1 else []


F = TypeVar("F", bound=Callable[..., Any])


def lit_error_handler(error_type: type[LitError] = LitError) -> Callable[[F], F]:
    """A decorator that re-raises whatever a function raises as `error_type`, from the original.

    It keeps name, doc and signature, works on coroutines and generators, and may be used with and without
    parentheses. An error that is an `error_type` already passes unchanged, and so do interrupts and
    cancellation. The `code` of a wrapped `TapelineError` is its status; message, hint and the faults that it
    lists become notes. What a library of ours refuses is the cause as the class that its code has in the SDK.

    Examples
    --------
    >>> @lit_error_handler()
    ... def raises_error():
    ...     assert False
    ...
    >>> raises_error()
    Traceback (most recent call last):
    ...
    tapeline.errors.LitError: An error occurred in function 'raises_error'
    """
    if not (isinstance(error_type, type) and issubclass(error_type, BaseException)):
        # Used without parentheses: what was given is the function.
        return cast("Callable[[F], F]", _wrapped(cast("Callable[..., Any]", error_type), LitError))

    def decorate(function: F) -> F:
        return cast(F, _wrapped(function, error_type))

    return decorate


def _wrapped(function: Callable[..., Any], error_type: type[LitError]) -> Callable[..., Any]:
    def translate(error: Exception) -> LitError:
        cause = error
        if isinstance(error, TapelineError) and not isinstance(error, ApiException | LitError):
            cause = api_error(error)
            cause.__cause__ = error
        made = error_type(f"An error occurred in function '{function.__name__}'", code=getattr(cause, "status", None))
        if isinstance(cause, TapelineError):
            made.hint = cause.hint
            made.add_note(cause.message)
            for each in listed(cause):
                made.add_note(f"  {each}")
            if cause.hint:
                made.add_note(f"Hint: {cause.hint}")
        made.__cause__ = cause
        return made

    if inspect.isasyncgenfunction(function):

        @functools.wraps(function)
        async def async_generator(*args: Any, **kwargs: Any) -> AsyncIterator[Any]:
            try:
                async for item in function(*args, **kwargs):
                    yield item
            except error_type:
                raise
            except Exception as error:
                made = translate(error)
                raise made from made.__cause__

        return async_generator
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def coroutine(*args: Any, **kwargs: Any) -> Any:
            try:
                return await function(*args, **kwargs)
            except error_type:
                raise
            except Exception as error:
                made = translate(error)
                raise made from made.__cause__

        return coroutine
    if inspect.isgeneratorfunction(function):

        @functools.wraps(function)
        def generator(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
            try:
                return (yield from function(*args, **kwargs))
            except error_type:
                raise
            except Exception as error:
                made = translate(error)
                raise made from made.__cause__

        return generator

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except error_type:
            raise
        except Exception as error:
            made = translate(error)
            raise made from made.__cause__

    return wrapper
