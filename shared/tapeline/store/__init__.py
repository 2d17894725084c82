"""The artifact store: immutable bytes under their SHA-256, staged first, promoted by a service.

Layout, the same in a folder and in a bucket:

    sha256/ab/cdef...      promoted bytes, never changed
    staging/<prefix>/...   uploads that no event names yet
"""

from tapeline.store.local import LocalStore
from tapeline.store.protocol import ArtifactStore, key_of

__all__ = ["ArtifactStore", "LocalStore", "key_of"]
