"""SHA-256 of many messages at once against `hashlib`."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tapeline.digests import LANES, PIECE, sha256_of_each, sha256_of_pieces
from tapeline.digests.reference import sha256_of_each as one_by_one

WIDTHS = [lanes for lanes in (4, 8, 16) if lanes <= LANES]
EDGES = [0, 1, 55, 56, 57, 63, 64, 65, 119, 120, 127, 128, 129, 1000]


@settings(max_examples=30, deadline=None)
@given(
    lengths=st.lists(st.one_of(st.sampled_from(EDGES), st.integers(0, 3000)), max_size=40),
    lanes=st.sampled_from(WIDTHS),
    seed=st.integers(0, 2**32 - 1),
)
def test_many_messages_have_the_digests_that_each_has_alone(lengths: list[int], lanes: int, seed: int) -> None:
    draw = np.random.default_rng(seed)
    messages = [draw.bytes(length) for length in lengths]
    expected = [hashlib.sha256(message).hexdigest() for message in messages]
    assert sha256_of_each(messages, lanes=lanes) == expected == one_by_one(messages)


def test_threads_share_long_messages_and_change_nothing() -> None:
    draw = np.random.default_rng(1)
    messages = [draw.integers(0, 2**40, n) for n in (90_000, 3, 70_001, 0, 50_000, 64, 20_000)]
    assert sha256_of_each(messages, n_threads=3) == one_by_one([each.tobytes() for each in messages])


def test_a_width_that_the_processor_has_not_is_refused() -> None:
    with pytest.raises(ValueError, match="lanes is 32"):
        sha256_of_each([b"a", b"b"], lanes=32)


@pytest.mark.parametrize("size", [0, 1, PIECE, PIECE + 1, 5 * PIECE + 77])
def test_the_digest_of_pieces_is_that_of_their_digests(size: int) -> None:
    content = np.random.default_rng(size).bytes(size)
    pieces = [content[start : start + PIECE] for start in range(0, size, PIECE)]
    expected = hashlib.sha256(b"".join(hashlib.sha256(piece).digest() for piece in pieces)).digest()
    assert sha256_of_pieces(content) == sha256_of_pieces(memoryview(content)) == expected
