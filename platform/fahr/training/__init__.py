"""Data that can be sought to any sample, changes of pictures on the device, and one engine for every task."""
