"""Who, when, what happened: manifests, the mapping of hospital tables to them, who is in which split, who is rare."""

from fahr.cohorts.manifest import check_manifest, iter_manifest, read_manifest
from fahr.cohorts.mapping import ColumnMapping, read_mapping
from fahr.cohorts.problems import ManifestError, Problem
from fahr.cohorts.sampling import age_balanced_weights
from fahr.cohorts.splits import split_of
from fahr.cohorts.writing import write_manifest

__all__ = [
    "ColumnMapping",
    "ManifestError",
    "Problem",
    "age_balanced_weights",
    "check_manifest",
    "iter_manifest",
    "read_manifest",
    "read_mapping",
    "split_of",
    "write_manifest",
]
