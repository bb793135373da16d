"""chainfl: strangers train a model together without trusting one another."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from chainfl.training.finished import load_model

__version__ = "0.1.0"
__all__ = ["__version__", "load_model"]


def __getattr__(name: str) -> Any:
    """torch is imported when it is needed: the command line, and most of the package, start without it."""
    if name == "load_model":
        from chainfl.training.finished import load_model

        return load_model
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
