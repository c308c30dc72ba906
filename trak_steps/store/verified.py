"""A Zarr store that gives out nothing but what was written: each file is held to its SHA-256.

Every chunk ends with a CRC already, but one that was copied from another store passes that, and a
chunk that is not there reads as the fill value.
"""

import hashlib
from collections.abc import AsyncGenerator, Iterable, Mapping
from typing import TypeAlias

from zarr.abc.store import ByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import LocalStore, WrapperStore

Request: TypeAlias = tuple[str, BufferPrototype, ByteRequest | None]


class AlteredError(Exception):
    """A file of the store is missing or is not what the manifest says."""


class VerifiedStore(WrapperStore[LocalStore]):
    """Read a store's files, each against its digest.

    Args:
        store: what to read.
        files: SHA-256 by relative path.
    """

    def __init__(self, store: LocalStore, files: Mapping[str, str]) -> None:
        super().__init__(store)
        self._files = files

    def _with_store(self, store: LocalStore) -> "VerifiedStore":
        return type(self)(store, self._files)

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """A file's bytes; none of one that is neither listed nor there."""
        if byte_range is not None:
            raise NotImplementedError("a part of a file cannot be held to the whole's digest")
        if key not in self._files:
            return None
        found = await self._store.get(key, prototype)
        if found is None:
            raise AlteredError(f"its {key} is missing")
        if not _fits(found, self._files[key]):
            raise AlteredError(f"its {key} was altered after it was written")
        return found

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        """As :meth:`get`, of several."""
        return [await self.get(key, prototype, part) for key, part in key_ranges]

    async def _get_many(
        self, requests: Iterable[Request]
    ) -> AsyncGenerator[tuple[str, Buffer | None], None]:
        for key, prototype, part in requests:
            yield key, await self.get(key, prototype, part)


def _fits(data: Buffer, digest: str) -> bool:
    return hashlib.sha256(data.as_buffer_like()).hexdigest() == digest
