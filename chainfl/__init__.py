"""chainfl: strangers train a model together without trusting one another."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from chainfl.simulation.simulate import simulate
    from chainfl.simulation.strategy import Strategy
    from chainfl.training.app import App
    from chainfl.training.finished import load_model

__version__ = "0.1.0"
__all__ = ["App", "Strategy", "__version__", "load_model", "simulate"]

_LAZY = {
    "App": "chainfl.training.app",
    "Strategy": "chainfl.simulation.strategy",
    "load_model": "chainfl.training.finished",
    "simulate": "chainfl.simulation.simulate",
}


def __getattr__(name: str) -> Any:
    """torch is imported when it is needed: the command line, and most of the package, start without it."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    """What completion offers: the names that are imported when they are needed, too."""
    return sorted({*globals(), *_LAZY})
