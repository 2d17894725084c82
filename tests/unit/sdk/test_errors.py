"""The one error of a family, raised from what went wrong."""

from __future__ import annotations

import asyncio
import inspect
import pickle
import traceback
from collections.abc import AsyncIterator, Iterator

import pytest

from tapeline import sdk as tl
from tapeline.errors import CODES, TapelineError


def test_the_example_of_the_page_prints_its_last_lines() -> None:
    @tl.lit_error_handler()
    def raises_error() -> None:
        raise AssertionError

    try:
        raises_error()
    except tl.LitError:
        printed = traceback.format_exc().splitlines()
    assert "AssertionError" in printed
    assert "The above exception was the direct cause of the following exception:" in printed
    assert printed[-1].endswith(".LitError: An error occurred in function 'raises_error'")


def test_the_doctest_of_the_decorator_runs() -> None:
    import doctest

    from tapeline.sdk import errors

    assert doctest.testmod(errors).failed == 0


def test_what_a_library_refuses_is_the_cause_in_its_class_of_the_sdk() -> None:
    faults = [
        {"node": "flat", "pointer": "/nodes/1/inputs/0", "message": "there is no node 'x'", "hint": "name another"},
        {"path": ["steps"], "message": "-1 is less than the minimum of 0", "hint": None},
    ]
    refused = TapelineError("flat: wrong", code="canvas_invalid", hint="name another", data={"errors": faults})

    @tl.lit_error_handler(tl.LitModelError)
    def broken() -> None:
        raise refused

    with pytest.raises(tl.LitModelError) as caught:
        broken()
    error, cause = caught.value, caught.value.__cause__
    assert isinstance(cause, tl.ValidationError)
    assert cause.__cause__ is refused
    assert cause.errors == faults
    assert (error.code, error.hint) == (422, "name another")
    assert error.__notes__ == [
        "flat: wrong",
        "  flat /nodes/1/inputs/0: there is no node 'x' (name another)",
        "  steps: -1 is less than the minimum of 0",
        "Hint: name another",
    ]


def test_it_is_usable_without_parentheses() -> None:
    @tl.lit_error_handler  # type: ignore[arg-type]
    def broken() -> None:
        raise KeyError("x")

    with pytest.raises(tl.LitError, match="in function 'broken'"):
        broken()  # type: ignore[operator]


def test_an_error_of_the_family_passes_unchanged() -> None:
    error = tl.LitModelError("mine")

    @tl.lit_error_handler(tl.LitModelError)
    def broken() -> None:
        raise error

    with pytest.raises(tl.LitModelError) as caught:
        broken()
    assert caught.value is error


def test_name_doc_and_signature_stay() -> None:
    @tl.lit_error_handler(tl.LitVaultError)
    def named(team: str, name: str | None = None) -> int:
        """What it gives."""
        return 1

    assert (named.__name__, named.__doc__) == ("named", "What it gives.")
    assert list(inspect.signature(named).parameters) == ["team", "name"]
    assert named("t") == 1


def test_the_status_and_the_sentence_of_a_refusal_are_kept() -> None:
    @tl.lit_error_handler(tl.LitVaultError)
    def refused() -> None:
        raise tl.NotFoundError.of("not_found", "no item x", hint="tapeline vault ls")

    with pytest.raises(tl.LitVaultError) as caught:
        refused()
    assert str(caught.value) == "An error occurred in function 'refused'"
    assert caught.value.code == 404
    assert caught.value.__notes__ == ["no item x", "Hint: tapeline vault ls"]
    assert isinstance(caught.value.__cause__, tl.NotFoundError)


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, asyncio.CancelledError])
def test_interrupts_and_cancellation_pass(kind: type[BaseException]) -> None:
    @tl.lit_error_handler()
    def stopped() -> None:
        raise kind

    with pytest.raises(kind):
        stopped()


async def test_it_works_on_coroutines_and_generators() -> None:
    @tl.lit_error_handler()
    async def coroutine() -> None:
        raise ValueError

    @tl.lit_error_handler()
    def generator() -> Iterator[int]:
        yield 1
        raise ValueError

    @tl.lit_error_handler()
    async def async_generator() -> AsyncIterator[int]:
        yield 1
        raise ValueError

    with pytest.raises(tl.LitError, match="'coroutine'"):
        await coroutine()
    numbers = generator()
    assert next(numbers) == 1
    with pytest.raises(tl.LitError, match="'generator'"):
        next(numbers)
    with pytest.raises(tl.LitError, match="'async_generator'"):
        [each async for each in async_generator()]


@pytest.mark.parametrize("code", sorted(CODES))
def test_each_error_survives_a_process_border(code: str) -> None:
    error = CODES[code].kind.of(code, "it is so", hint="do this")
    twin = pickle.loads(pickle.dumps(error))
    assert type(twin) is type(error)
    assert (str(twin), twin.code, twin.hint, twin.status) == (str(error), code, "do this", CODES[code].status)
