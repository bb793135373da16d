"""Many participants on one machine: the demo, and what it measures."""
