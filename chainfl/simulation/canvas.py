"""Pictures as files, drawn without a display."""

from __future__ import annotations

from pathlib import Path
from typing import Any


class Canvas:
    """One set of axes on a canvas without a display, saved at the end."""

    def __init__(self, path: Path, size: tuple[float, float]) -> None:
        # Not imported at the top: a second of start-up that only drawing needs.
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        self._path = path
        self._figure = Figure(figsize=size, layout="tight")
        FigureCanvasAgg(self._figure)

    def __enter__(self) -> Any:
        return self._figure.add_subplot()

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self._figure.savefig(self._path, dpi=120)
