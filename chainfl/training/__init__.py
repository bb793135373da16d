"""Data sets, models, and local training in floating point. Nothing here knows of chains or integers."""
