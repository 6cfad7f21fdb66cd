"""Who, when, what happened: manifests, the mapping of hospital tables to them, and who is in which split."""

from fahr.cohorts.manifest import check_manifest, iter_manifest, read_manifest
from fahr.cohorts.mapping import ColumnMapping, read_mapping
from fahr.cohorts.problems import ManifestError, Problem
from fahr.cohorts.splits import split_of
from fahr.cohorts.writing import write_manifest

__all__ = [
    "ColumnMapping",
    "ManifestError",
    "Problem",
    "check_manifest",
    "iter_manifest",
    "read_manifest",
    "read_mapping",
    "split_of",
    "write_manifest",
]
