"""Parquet files with a manifest in their schema's metadata."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from trak_steps.errors import TrakError
from trak_steps.store.atomic import complete_or_absent
from trak_steps.store.manifest import Manifest, sealed

KEY = b"trak_steps.manifest"


def save_table(path: Path, table: pa.Table, manifest: Manifest) -> None:
    """Write a table, complete or absent; its manifest holds the digest of its values."""
    table = table.cast(_as_parquet_has_it(table.schema))
    manifest = replace(manifest, content=_digest(table))
    document = json.dumps(sealed(manifest.to_dict()), sort_keys=True)
    table = table.replace_schema_metadata({**(table.schema.metadata or {}), KEY: document})
    with complete_or_absent(path) as file:
        pq.write_table(table, file, write_page_checksum=True)


def _as_parquet_has_it(schema: pa.Schema) -> pa.Schema:
    """The types that come back when they are read: parquet has its own name for a list's elements."""
    fields = []
    for field in schema:
        if pa.types.is_list(field.type):
            field = field.with_type(pa.list_(pa.field("element", field.type.value_type)))
        fields.append(field)
    return pa.schema(fields, schema.metadata)


def table_manifest(path: Path, kind: str | None) -> Manifest:
    """The manifest of a parquet file. Raises TrakError if it is missing, altered or of another kind."""
    try:
        metadata = pq.read_schema(path).metadata or {}
        values = json.loads(metadata.get(KEY, b"null"))
    except FileNotFoundError:
        raise TrakError(f"{path}: is missing; run the step that makes it") from None
    except (OSError, ValueError, pa.ArrowException) as error:
        raise TrakError(f"{path}: cannot be read ({error}); delete it and rerun") from None
    return Manifest.from_document(values, kind, path)


def load_table(path: Path, kind: str | None) -> tuple[pa.Table, Manifest]:
    """A whole table and its manifest.

    Raises:
        TrakError: if the file is missing, of another kind, or holds other values than were written.
    """
    manifest = table_manifest(path, kind)
    try:
        table = pq.read_table(path, page_checksum_verification=True, partitioning=None)
        found = _digest(table)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise TrakError(f"{path}: is damaged ({error}); delete it and rerun") from None
    if found != manifest.content:
        raise TrakError(f"{path}: was altered after it was written; delete it and rerun")
    return table, manifest


def _digest(table: pa.Table) -> str:
    """The SHA-256 of a table's names, types and values, whatever chunks they lie in."""
    plain = pa.schema([pa.field(field.name, field.type) for field in table.schema])
    digest = hashlib.sha256()
    # Taken anew, since what lies in memory below a null may be anything.
    table = table.cast(plain).take(pa.array(range(len(table)), pa.int64()))
    for batch in table.combine_chunks().to_batches():
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, plain) as writer:
            writer.write_batch(batch)
        digest.update(sink.getvalue())
    digest.update(str(len(table)).encode())
    return digest.hexdigest()
