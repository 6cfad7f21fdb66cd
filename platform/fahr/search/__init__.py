"""Searching settings of a fine-tune job: what is tried, by whom it is judged, and whether the best is better."""
