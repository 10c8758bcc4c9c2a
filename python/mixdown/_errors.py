"""What goes wrong, with each diagnostic."""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Iterator

from . import _mixdown


@dataclass(frozen=True)
class Diagnostic:
    """One message: what is wrong, where, what was found, and what to do."""

    severity: str
    """`error` or `warning`."""
    code: str
    """For instance `E0214`; the program's documentation lists all."""
    headline: str
    """One sentence, lower case, without a full stop."""
    place: dict[str, Any] | None = None
    """Where it is: the keys `file`, `line` and `column`, or `byte`; none if it has no place."""
    facts: tuple[tuple[str, str], ...] = ()
    """Both sides of a disagreement."""
    notes: tuple[str, ...] = ()
    """What else helps to understand."""
    help: str | None = None
    """What to do, with the text to type."""
    document: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)
    """All that the program's `--json` says of it."""

    @classmethod
    def of(cls, value: dict[str, Any]) -> Diagnostic:
        """The diagnostic of a JSON document."""
        facts = value.get("facts") or []
        return cls(
            severity=value["severity"],
            code=value["code"],
            headline=value["headline"],
            place=value.get("place"),
            facts=tuple((fact["label"], fact["text"]) for fact in facts),
            notes=tuple(value.get("notes") or ()),
            help=value.get("help"),
            document=value,
        )


class MixdownError(Exception):
    """Something was not done. `str()` is the text that the program prints."""

    def __init__(self, text: str, diagnostics: tuple[Diagnostic, ...] = ()) -> None:
        super().__init__(text)
        self.diagnostics = diagnostics

    def __reduce__(self) -> tuple[Any, ...]:
        # As it crosses from one process to another, with all that it carries.
        return (type(self), (str(self), self.diagnostics))

    @property
    def errors(self) -> tuple[Diagnostic, ...]:
        """The diagnostics that are errors; the others are warnings."""
        return tuple(found for found in self.diagnostics if found.severity == "error")


class RecipeError(MixdownError):
    """The recipe, or what was asked for, is wrong."""


class MergeError(MixdownError):
    """It could not be done: data, disk or numbers are in the way."""


class Interrupted(MixdownError):
    """The work was asked to stop; the same call goes on where it was."""


def _is_mistake(diagnostic: Diagnostic) -> bool:
    # As the program's exit status tells mistakes from failures.
    code = diagnostic.code
    return code.startswith(("E02", "E03")) or code == _mixdown.MODEL_NOT_FOUND


@contextmanager
def told() -> Iterator[None]:
    """Raises what the extension reports as the package's own exceptions."""
    try:
        yield
    except _mixdown.Failure as failure:
        kind, diagnostics, text = failure.args
        found = tuple(Diagnostic.of(value) for value in json.loads(diagnostics))
        if kind == "interrupted":
            raise Interrupted(text) from None
        errors = (one for one in found if one.severity == "error")
        is_mistake = kind == "usage" or any(_is_mistake(one) for one in errors)
        raise (RecipeError if is_mistake else MergeError)(text, found) from None
