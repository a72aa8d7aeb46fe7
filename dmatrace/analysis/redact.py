"""A document without what tells who and where: for recordings that leave the house.

Pure and for every reader: it takes the JSON document of ``report`` and gives one
of the same shape.  Paths, command lines and host names go, and with ``comms``
the names of threads.  What is the same before is the same afterwards (``path-1``
is one file throughout), so that comparisons still work.

Of the ``target``, which says what was traced, only what is known to be harmless
is kept: what a later recorder adds there is removed until it is listed here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_REMOVED = "redacted"
_HARMLESS_TARGET = frozenset({"kind", "strategies", "rounds", "pids", "duration_s", "block"})
#: Keys whose text is removed whole, wherever they stand.
_WHOLE = frozenset(
    {"command", "cmdline", "argv", "args", "cwd", "exe", "env", "host", "hostname", "node", "user"}
)
#: Keys whose text is a path as it stands.
_PATHS = frozenset({"file", "path", "files", "paths", "directory", "recording"})
#: Those of _WHOLE whose text is removed from sentences as well, if it is long enough to be one.
_IN_SENTENCES = frozenset({"command", "cmdline", "host", "hostname", "node"})
_LONG = 4
_COMMS = frozenset({"comm", "comms"})
# An absolute path inside a sentence: it may hold blanks, which no pattern can tell from
# the sentence's; those that the document names elsewhere are replaced as they stand.
_IN_TEXT = re.compile(r"(?<![\w.<])~?/[^\s'\"`:;,()<>|]+")


def redact(
    document: Mapping[str, Any], *, comms: bool = False, names: Names | None = None
) -> dict[str, Any]:
    """A copy of ``document`` without paths, command lines and host names.

    ``comms`` removes the names of threads as well; ``names``, instead of it, are those that
    other things are redacted by, too.  Strategies, hooks, kernels and figures
    stay.  ``"redacted": true`` says that it was done.
    """
    names = names or Names(comms)
    names.collect(document)
    result = {key: names.clean(value, key) for key, value in document.items()}
    target = document.get("target")
    if isinstance(target, Mapping):
        result["target"] = {
            key: names.clean(value, key) if key in _HARMLESS_TARGET else _REMOVED
            for key, value in target.items()
        }
    return {**result, "redacted": True}


class Names:
    """What each path and comm is called instead, in order of appearance."""

    def __init__(self, comms: bool) -> None:
        self._comms = comms
        self._instead: dict[str, dict[str, str]] = {"path": {}, "comm": {}}
        self._removed: set[str] = set()
        self._known: re.Pattern[str] | None = None

    def collect(self, document: Mapping[str, Any]) -> None:
        """Every path that stands by itself, so that it is found in sentences, too.

        May be called again with more.
        """
        self._walk(document, "")
        known = sorted({*self._instead["path"], *self._removed}, key=len, reverse=True)
        if known:
            self._known = re.compile("|".join(map(re.escape, known)))

    def _walk(self, value: Any, key: str) -> None:
        if isinstance(value, Mapping):
            for name, inner in value.items():
                self._walk(inner, name)
        elif isinstance(value, (list, tuple)):
            for inner in value:
                self._walk(inner, key)
        elif isinstance(value, str) and value and key in _PATHS:
            self._call("path", value)
        elif isinstance(value, str) and key in _IN_SENTENCES and len(value) >= _LONG:
            self._removed.add(value)

    def clean(self, value: Any, key: str) -> Any:
        """``value`` of ``key``, redacted; containers anew."""
        if key in _WHOLE and value not in ("", None):
            return _REMOVED
        if isinstance(value, Mapping):
            return {self._text(name): self.clean(inner, name) for name, inner in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.clean(inner, key) for inner in value]
        if not isinstance(value, str) or not value:
            return value
        if key in _PATHS:
            return self._call("path", value)
        if key in _COMMS:
            return self._call("comm", value) if self._comms else value
        return self._text(value)

    def _text(self, text: str) -> str:
        if self._known is not None:
            text = self._known.sub(lambda found: self._called(found[0]), text)
        return _IN_TEXT.sub(lambda found: self._call("path", found[0]), text)

    def _called(self, name: str) -> str:
        return _REMOVED if name in self._removed else self._call("path", name)

    def _call(self, kind: str, name: str) -> str:
        instead = self._instead[kind]
        return instead.setdefault(name, f"{kind}-{len(instead) + 1}")
