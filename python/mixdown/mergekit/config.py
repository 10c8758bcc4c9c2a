"""Configurations of merges, as mergekit's programs make them."""

from __future__ import annotations

import json
from typing import Any, Mapping


class MergeConfiguration:
    """A configuration: the dict that mergekit's YAML says, with its keys as attributes."""

    def __init__(self, **entries: Any) -> None:
        object.__setattr__(self, "_entries", dict(entries))

    @classmethod
    def model_validate(cls, value: Mapping[str, Any] | MergeConfiguration) -> MergeConfiguration:
        """The configuration of a dict. Mistakes are found by `run_merge`, all together."""
        if isinstance(value, cls):
            return value
        if not isinstance(value, Mapping):
            raise TypeError(f"a configuration is a dict, found {type(value).__name__}")
        return cls(**value)

    @classmethod
    def from_yaml(cls, text: str) -> MergeConfiguration:
        """The configuration of a text, which is kept as it is."""
        found = cls()
        object.__setattr__(found, "_text", text)
        return found

    def model_dump(self, **_: Any) -> dict[str, Any]:
        """The dict of the configuration."""
        return dict(self._entries)

    def to_yaml(self) -> str:
        """The text of the configuration."""
        text: str | None = self.__dict__.get("_text")
        if text is not None:
            return text
        # JSON is YAML; the newline keeps a short one from being taken for a path.
        return json.dumps(self._entries, indent=2) + "\n"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        try:
            return self._entries[name]
        except KeyError:
            raise AttributeError(name) from None

    def __setattr__(self, name: str, value: Any) -> None:
        self._entries[name] = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, MergeConfiguration) and self.to_yaml() == other.to_yaml()

    def __repr__(self) -> str:
        return f"MergeConfiguration({self._entries!r})"
