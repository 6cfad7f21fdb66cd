"""Checkpoints: saved whole or refused, and those of other projects opened with their own meaning."""

from fahr.models.checkpoints.config import CheckpointConfig, Interval
from fahr.models.checkpoints.load import load
from fahr.models.checkpoints.save import save
from fahr.models.normalization import Normalization

__all__ = ["CheckpointConfig", "Interval", "Normalization", "load", "save"]
