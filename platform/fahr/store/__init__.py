"""Where bytes live: local paths and s3:// URIs behind one small set of functions."""

from fahr.store.failures import Corrupt, Denied, Exists, Missing, TooLarge, Unavailable
from fahr.store.files import (
    atomic_writer,
    create_bytes,
    delete,
    digest,
    exists,
    open_input,
    read_bytes,
    write_bytes,
)
from fahr.store.ledger import Ledger, LedgerError
from fahr.store.listing import WALKERS, list_files
from fahr.store.locations import absolute, is_s3, join, name, parent, relative
from fahr.store.s3 import Entry
from fahr.store.shards import INDEX, list_shards, read_parquet, read_shards, write_parquet, write_shards
from fahr.store.units import Unit, WorkUnits, committed, read_unit, read_units, row_digests

__all__ = [
    "INDEX",
    "WALKERS",
    "Corrupt",
    "Denied",
    "Entry",
    "Exists",
    "Ledger",
    "LedgerError",
    "Missing",
    "TooLarge",
    "Unavailable",
    "Unit",
    "WorkUnits",
    "absolute",
    "atomic_writer",
    "committed",
    "create_bytes",
    "delete",
    "digest",
    "exists",
    "is_s3",
    "join",
    "list_files",
    "list_shards",
    "name",
    "open_input",
    "parent",
    "read_bytes",
    "read_parquet",
    "read_shards",
    "read_unit",
    "read_units",
    "relative",
    "row_digests",
    "write_bytes",
    "write_parquet",
    "write_shards",
]
