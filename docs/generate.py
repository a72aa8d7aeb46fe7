"""Everything that is made from the parser: ``make docs`` runs this.

- in docs/VERB.md, between two marks, a table of the verb's options;
- docs/man/dmatrace.1 and docs/man/dmatrace-VERB.1;
- dmatrace/completions/dmatrace.SHELL, which ``dmatrace completion`` prints;
- in docs/python.md, between the same marks, the columns of the data frames.

``--check`` writes nothing and fails, naming them, if files are not up to date.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import shtab
from argparse_manpage.manpage import Manpage

from dmatrace.analysis.columns import TABLES
from dmatrace.cli import VERBS, completion, parser
from dmatrace_loaders.table import strategies

ROOT = Path(__file__).parents[1]
BEGIN, END = "<!-- made by make docs: begin -->", "<!-- made by make docs: end -->"
_WIDTH = "79"

_FILES = {"PATH", "PATH.png|svg", "JSON"}
_DIRECTORIES = {"OUT", "DIR"}

_BASH = """\
# Comma-separated strategies: what stands before the last comma stays.
_dmatrace_strategies() {
  local before=""
  [[ "$1" == *,* ]] && before="${1%,*},"
  compgen -P "$before" -W "%NAMES%" -- "${1##*,}"
}
"""
_ZSH = """\
_dmatrace_strategies() {
  _values -s , strategy %NAMES%
}
"""
_FISH = """\
function _dmatrace_strategies
  set -l word (commandline -ct)
  set -l before (string match -r '.*,' -- $word)
  for name in %NAMES%
    echo "$before$name"
  end
end
"""


def main() -> int:
    """Write or check every file; the exit code."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--check", action="store_true")
    check = options.parse_args().check
    stale = []
    for path, text in made():
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        stale.append(str(path.relative_to(ROOT)))
        if not check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    for name in stale:
        print(f"{name}: {'not up to date' if check else 'written'}")
    if check and stale:
        print("run make docs", file=sys.stderr)
    return int(check and bool(stale))


def made() -> Iterator[tuple[Path, str]]:
    """Every file that is made, and what it should hold."""
    os.environ["COLUMNS"] = _WIDTH  # argparse wraps usage lines by it
    os.environ["NO_COLOR"] = "1"  # Python 3.14 colours them otherwise
    top = parser()
    subs = _subparsers(top)
    for module in VERBS:
        page = ROOT / "docs" / f"{module.NAME}.md"
        yield page, _with(page, _options(module.NAME, subs[module.NAME]))
        yield _man(f"dmatrace-{module.NAME}", subs[module.NAME])
    yield _man("dmatrace", top)
    for shell in completion.SHELLS:
        file = ROOT / "dmatrace" / "completions" / f"dmatrace.{shell}"
        yield file, _completion(shell)
    frames = ROOT / "docs" / "python.md"
    yield frames, _with(frames, _columns())


def _subparsers(found: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    for action in found._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def _with(page: Path, text: str) -> str:
    """The page with ``text`` between its marks; at its end where it has none."""
    old = page.read_text(encoding="utf-8") if page.exists() else f"# dmatrace {page.stem}\n"
    if BEGIN not in old:
        old = f"{old.rstrip()}\n\n{BEGIN}\n{END}\n"
    before, rest = old.split(BEGIN, 1)
    return f"{before}{BEGIN}\n{text}\n{rest[rest.index(END) :]}"


def _options(verb: str, found: argparse.ArgumentParser) -> str:
    """Usage and options of a verb, and of the verbs below it."""
    parts = [f"## Options of dmatrace {verb}"]
    subs = _subparsers(found)
    for name, sub in subs.items() or {"": found}.items():
        if name:
            parts.append(f"### {verb} {name}")
        usage = sub.format_usage().removeprefix("usage: ").rstrip()
        parts.append(f"```\n{usage}\n```")
        rows = [
            f"| {_invocation(action)} | {_about(sub, action)} |"
            for action in sub._actions
            if not isinstance(action, argparse._HelpAction | argparse._SubParsersAction)
            and action.help != argparse.SUPPRESS
        ]
        if rows:
            parts.append("\n".join(["| option | means |", "|---|---|", *rows]))
    return "\n\n".join(parts)


def _invocation(action: argparse.Action) -> str:
    value = ""
    if action.nargs != 0:
        value = str(action.metavar or ",".join(map(str, action.choices or ())) or action.dest)
    names = ", ".join(action.option_strings)
    return "`" + f"{names} {value}".strip().replace("|", "\\|") + "`"


def _about(found: argparse.ArgumentParser, action: argparse.Action) -> str:
    text = found._get_formatter()._expand_help(action) if action.help else ""
    return re.sub(r"\s+", " ", text).replace("|", "\\|").replace("<", "&lt;")


def _columns() -> str:
    parts = ["## Tables and columns"]
    for name, table in TABLES.items():
        parts.append(f"### {name}\n\nA row is {table.row}.")
        rows = [f"| `{c.name}` | {c.unit} | {c.meaning} |" for c in table.columns]
        parts.append("\n".join(["| column | unit | is |", "|---|---|---|", *rows]))
    return "\n\n".join(parts)


def _man(name: str, found: argparse.ArgumentParser) -> tuple[Path, str]:
    about = re.sub(r"[\n:].*", "", found.description or "", flags=re.DOTALL).rstrip(".")
    text = str(Manpage(found, format="single-commands-section"))
    title = f'.TH {name.upper()} "1" "" "dmatrace" "User Commands"'
    text = re.sub(r"^\.TH .*$", lambda _: title, text, count=1, flags=re.MULTILINE)
    line = f".SH NAME\n{name} \\- {about}\n"
    text = re.sub(r"^\.SH NAME\n.*\n", lambda _: line, text, count=1, flags=re.MULTILINE)
    return ROOT / "docs" / "man" / f"{name}.1", text.rstrip() + "\n"


def _completion(shell: str) -> str:
    """shtab's script, with files and strategies completed where they are meant."""
    names = " ".join(strategies())
    found = parser()
    _complete(found)
    scripts = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}
    preamble = scripts[shell].replace("%NAMES%", names)
    text = shtab.complete(found, shell=shell, preamble=preamble)
    return re.sub(r"[ \t]+$", "", text, flags=re.MULTILINE).rstrip() + "\n"


def _complete(found: argparse.ArgumentParser) -> None:
    strategies_ = {
        "bash": "_dmatrace_strategies",
        "zsh": "_dmatrace_strategies",
        "fish": "(_dmatrace_strategies)",
    }
    for action in found._actions:
        metavar = action.metavar if isinstance(action.metavar, str) else ""
        if action.choices is not None:
            continue
        if "--strategy" in action.option_strings:
            action.complete = strategies_  # type: ignore[attr-defined]
        elif metavar in _DIRECTORIES:
            action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
        elif metavar in _FILES or action.dest in ("file", "output"):
            action.complete = shtab.FILE  # type: ignore[attr-defined]
    for sub in _subparsers(found).values():
        _complete(sub)


if __name__ == "__main__":
    sys.exit(main())
