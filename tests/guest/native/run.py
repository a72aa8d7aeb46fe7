"""Runs the cases of one module: one JSON line each, {"case", "ok", "said"} or {"case", "lacks"}."""

from __future__ import annotations

import importlib
import json
import sys
import traceback

from tests.guest.native.harness import Lacks


def main(module: str, *wanted: str) -> None:
    cases = importlib.import_module(f"tests.guest.native.{module}").CASES
    for name, case in cases.items():
        if wanted and name not in wanted:
            continue
        result: dict[str, object] = {"case": name, "ok": True}
        try:
            case()
        except Lacks as lacks:
            result = {"case": name, "lacks": str(lacks)}
        except BaseException:
            result = {"case": name, "ok": False, "said": traceback.format_exc()}
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
