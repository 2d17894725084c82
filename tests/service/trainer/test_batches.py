"""The two ways to feed a model give the same bits."""

from __future__ import annotations

import numpy as np

from tapeline.trainer import dataset


def test_the_tensor_path_and_the_portable_path_give_equal_batches() -> None:
    rng = np.random.default_rng(0)
    part = dataset.Part(
        (rng.normal(size=(25, 3)).astype(np.float32), rng.normal(size=(25, 2, 2)).astype(np.float32)),
        (rng.normal(size=(25, 1)).astype(np.float32),),
        (rng.normal(size=25).astype(np.float32),),
    )
    order = dataset.order(1, 2, 25)
    for skip in (0, 2):
        gathered = list(dataset.Gather(part, 8).batches(order, skip).as_numpy_iterator())
        blocks = dataset.Blocks(part, 8).batches(order, skip)
        assert len(gathered) == len(blocks) == 4 - skip
        for i, ours in enumerate(gathered):
            theirs = blocks[i]
            assert np.array_equal(ours[0][0], theirs[0][0])
            assert np.array_equal(ours[0][1], theirs[0][1])
            assert np.array_equal(ours[1], theirs[1])
            assert np.array_equal(ours[2], theirs[2])
