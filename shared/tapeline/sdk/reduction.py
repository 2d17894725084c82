"""Reducers of embeddings: fitted on some rows, applied to all."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tapeline.sdk import arguments

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

METHODS = ("pca", "umap", "pacmap")
Apply = Callable[["NDArray[np.float64]"], "NDArray[np.float64]"]


def fitted(method: str, rows: NDArray[Any], n_components: int, seed: int) -> Apply:
    """What reduces vectors as `rows` teach it.

    Parameters
    ----------
    rows : ndarray, shape (n, d)
    n_components : int
        Length of the reduced vectors.

    Raises
    ------
    ValueError
        The method is not known, or the rows are too few or too short.
    ImportError
        The method needs an extra that is not installed.
    """
    import numpy as np

    arguments.one_of("method", method, METHODS)
    given = np.asarray(rows, dtype=np.float64)
    if isinstance(n_components, bool) or not isinstance(n_components, int) or n_components < 1:
        raise arguments.BadValue(
            f"n_components must be an int of at least 1, not {n_components!r}", hint="leave it out for 2"
        )
    if min(given.shape) < n_components:
        raise arguments.BadValue(
            f"{given.shape[0]} rows of length {given.shape[1]} do not give {n_components} components",
            hint=f"take at most {min(given.shape)}",
        )
    match method:
        case "umap":
            return _umap(given, n_components, seed)
        case "pacmap":
            return _pacmap(given, n_components, seed)
        case _:
            return _pca(given, n_components)


def _pca(rows: NDArray[np.float64], n_components: int) -> Apply:
    import numpy as np

    mean = rows.mean(axis=0)
    _, _, axes = np.linalg.svd(rows - mean, full_matrices=False)
    axes = axes[:n_components]
    # An axis and its opposite are equally good: the largest loading decides, so that everyone gets the same.
    largest = axes[np.arange(len(axes)), np.abs(axes).argmax(axis=1)]
    axes = axes * np.where(largest < 0, -1.0, 1.0)[:, None]
    return lambda vectors: np.asarray((vectors - mean) @ axes.T)


def _umap(rows: NDArray[np.float64], n_components: int, seed: int) -> Apply:
    try:
        import umap  # pyright: ignore[reportMissingImports]  # an extra
    except ImportError as error:
        raise ImportError("method 'umap' needs an extra: pip install 'tapeline[umap]'") from error
    import numpy as np

    reducer = umap.UMAP(n_components=n_components, random_state=seed).fit(rows)
    return lambda vectors: np.asarray(reducer.transform(vectors), dtype=np.float64)


def _pacmap(rows: NDArray[np.float64], n_components: int, seed: int) -> Apply:
    try:
        import pacmap  # pyright: ignore[reportMissingImports]  # an extra
    except ImportError as error:
        raise ImportError("method 'pacmap' needs an extra: pip install 'tapeline[pacmap]'") from error
    import numpy as np

    reducer = pacmap.PaCMAP(n_components=n_components, random_state=seed).fit(rows)
    return lambda vectors: np.asarray(reducer.transform(vectors, basis=rows), dtype=np.float64)
