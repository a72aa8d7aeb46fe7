"""The views as SVG files, without a terminal, and as PNG where there is Chromium: for the docs.

Usage: ``python -m dmatrace.tui.pictures RECORDING DIRECTORY [NAME ...]``
"""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from dmatrace.tui.app import Top
from dmatrace.tui.source import Replay

SIZE = (100, 30)
#: Name -> the keys that lead there.
PICTURES: dict[str, tuple[str, ...]] = {
    "loads": (),
    "time": ("2",),
    "memory": ("3",),
    "io": ("4",),
    "buffers": ("5",),
    "detail": ("enter",),
}
#: Those of a recording of processes that were followed, drawn where they are named.
FOLLOWED: dict[str, tuple[str, ...]] = {"files": ("j", "j", "j", "j")}


async def _draw(recording: Path, directory: Path, pictures: dict[str, tuple[str, ...]]) -> None:
    player = Replay(recording, playing=False)
    player.jump(1 << 62)  # ns: its end
    app = Top(player, interval=3600)
    async with app.run_test(size=SIZE) as pilot:
        while app.snapshot is None:
            await pilot.pause(0.05)
        for name, keys in pictures.items():
            await pilot.press("1", *keys)
            await pilot.pause(0.2)
            while name != "detail" and not app.query("FooterKey"):
                await pilot.pause(0.05)  # it is made anew where other keys act
            svg = app.export_screenshot(title=f"dmatrace top: {name}")
            (directory / f"{name}.svg").write_text(svg, encoding="utf-8")
            if name == "detail":
                await pilot.press("escape")


def _photographed(picture: Path) -> None:
    """An SVG beside itself as PNG, by headless Chromium.  Root may not use its sandbox."""
    found = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', picture.read_text(encoding="utf-8"))
    assert found, picture
    size = ",".join(str(round(float(number))) for number in found.groups())
    with tempfile.TemporaryDirectory() as place:
        subprocess.run(
            [
                "chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
                "--default-background-color=00000000", f"--user-data-dir={place}",
                f"--window-size={size}", f"--screenshot={picture.with_suffix('.png')}",
                picture.resolve().as_uri(),
            ],
            check=True,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip


def main() -> int:
    """Draw them all; the exit code."""
    every = {**PICTURES, **FOLLOWED}
    names = sys.argv[3:] or list(PICTURES)
    if len(sys.argv) < 3 or not every.keys() >= set(names):
        print(
            "usage: python -m dmatrace.tui.pictures RECORDING DIRECTORY [NAME ...]", file=sys.stderr
        )
        return 2
    directory = Path(sys.argv[2])
    directory.mkdir(parents=True, exist_ok=True)
    asyncio.run(_draw(Path(sys.argv[1]), directory, {name: every[name] for name in names}))
    if shutil.which("chromium"):
        for name in names:
            _photographed(directory / f"{name}.svg")
    return 0


if __name__ == "__main__":
    sys.exit(main())
