from typing import Any

import numpy as np
from numpy.typing import NDArray

def lanes() -> int: ...
def digest(messages: list[Any], order: NDArray[np.int64], width: int, out: NDArray[np.uint8]) -> None: ...
