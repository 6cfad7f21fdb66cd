"""A photo -> an aligned face, or a reason why not."""

from fahr.faces.aligner import REASONS, AlignedFace, Aligner, Rejection

__all__ = ["REASONS", "AlignedFace", "Aligner", "Rejection"]
