"""Shoal groups large collections of unlabelled images by what they show, and says how good the groups are."""

__version__ = "0.1.0"
