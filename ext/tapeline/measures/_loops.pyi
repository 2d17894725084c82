import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

def disturb(
    price: Floats, volume: Ints | Floats, seed: int, scale: float, out_price: Floats, out_volume: Ints | Floats
) -> None: ...
def touches(
    bars: Floats, entry: Ints, last: Ints, up: Floats, down: Floats, side: Floats, how: Ints, price: Floats, after: Ints
) -> None: ...
def moments(
    values: NDArray[np.float32],
    block: int,
    mean: Floats,
    second: Floats,
    low: Floats,
    high: Floats,
    total: Floats,
    about: Floats,
) -> None: ...
def first_not_finite(bits: NDArray[np.uint32]) -> int: ...
def has_nan(values: NDArray[np.float32], out: NDArray[np.bool_]) -> None: ...
def weigh(words: NDArray[np.uint32], weights: NDArray[np.uint64], out: NDArray[np.uint64]) -> None: ...
def shared_ranks(ordered: NDArray[np.uint64], out: Floats) -> None: ...
