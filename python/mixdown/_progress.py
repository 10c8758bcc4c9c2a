"""Progress and warnings of the work, for people."""

from __future__ import annotations

import json
import sys
import warnings
from typing import Any, Callable, Union

from ._errors import Diagnostic

Progress = Union[bool, None, Callable[[dict[str, Any]], None]]
"""True: a bar of tqdm where it is installed; None: the same on a terminal or in a notebook; False: none;
a function: called with each event."""


class MixdownWarning(UserWarning):
    """What a person should know and may rightly ignore."""


class Listener:
    """Hears the events of one piece of work; used as a context, so that bars are closed."""

    def __init__(self, progress: Progress) -> None:
        self._call = progress if callable(progress) else None
        self._bar_class = _tqdm(progress)
        self._bar: Any = None
        self._task: str | None = None

    def __enter__(self) -> Listener:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def __call__(self, text: str) -> None:
        event = json.loads(text)
        if event["event"] == "warnings":
            for value in event["diagnostics"]:
                self._warn(Diagnostic.of(value))
        if self._call is not None:
            self._call(event)
        elif self._bar_class is not None and event["event"] == "progress":
            self._show(event)

    def _warn(self, found: Diagnostic) -> None:
        text = f"[{found.code}] {found.headline}"
        if found.help:
            text += f"; {found.help}"
        warnings.warn(text, MixdownWarning, stacklevel=6)

    def _show(self, event: dict[str, Any]) -> None:
        if self._task != event["task"]:
            self._close()
            self._task = event["task"]
        if event["bytes"] and self._bar is None and not event["is_last"]:
            self._bar = self._bar_class(
                total=event["bytes"],
                unit="B",
                unit_scale=True,
                desc=event["stage"] or event["task"],
                leave=False,
            )
        if self._bar is not None:
            self._bar.total = event["bytes"]
            self._bar.update(min(event["bytes_done"], event["bytes"]) - self._bar.n)
            if event["is_last"]:
                self._close()


def _tqdm(progress: Progress) -> Any:
    if progress is False or callable(progress):
        return None
    if progress is None and not (sys.stderr.isatty() or "ipykernel" in sys.modules):
        return None
    try:
        from tqdm.auto import tqdm
    except ImportError:
        return None
    return tqdm
