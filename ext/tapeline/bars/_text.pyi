import numpy as np
from numpy.typing import NDArray

def parse(
    text: bytes | NDArray[np.uint8],
    delimiter: int,
    point: int,
    kinds: NDArray[np.int32],
    slots: NDArray[np.int32],
    numbers: NDArray[np.float64],
    whole: NDArray[np.int64],
    slow: NDArray[np.int64],
    state: NDArray[np.int64],
) -> int: ...
