"""chainfl: strangers train a model together without trusting one another."""

__version__ = "0.1.0"
