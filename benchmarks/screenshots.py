"""The pictures in `docs/pictures/`: the committed board's site in a real browser, and a contest in the terminal.

Needs the `browser` extra and a chromium. The contest's runs are trained where they are not there.
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, sync_playwright
from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

from harness.project import CHECKOUT, Project
from harness.site import write_site

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync"]
SHOTS = {  # name -> (page, theme, height in pixels)
    "board": ("index.html", "light", 885),
    "submission": ("submissions/0003-pocket-qk_norm.html", "dark", 860),
}


CONTEST = ("run", "candidate", "--variant", "token_smear")
COLUMNS = 92


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        write_site(Project(CHECKOUT), Path(folder))
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        for name, (path, theme, height) in SHOTS.items():
            page = browser.new_page(
                viewport={"width": 1160, "height": height}, color_scheme=theme, device_scale_factor=1.5
            )
            page.goto((Path(folder) / path).as_uri(), wait_until="networkidle")
            save(name, page.screenshot())
        save("terminal", in_a_terminal(browser, *CONTEST))
        browser.close()


def in_a_terminal(browser: Browser, *arguments: str) -> bytes:
    """What a command prints, in its colours."""
    environment = {**os.environ, "FORCE_COLOR": "1", "COLUMNS": str(COLUMNS)}
    command = [sys.executable, "-m", "harness.cli", *arguments]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False, env=environment)
    screen = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    screen.print(Text(f"$ llmbench {' '.join(arguments)}", style="bold"))
    screen.print(Text.from_ansi(done.stdout))  # progress goes to stderr
    page = browser.new_page(viewport={"width": 1160, "height": 400}, device_scale_factor=1.5)
    page.set_content(f"<body style='margin:0'>{screen.export_svg(title='llmbench', theme=MONOKAI)}</body>")
    return page.locator("svg").screenshot()


def save(name: str, png: bytes) -> None:
    target = CHECKOUT / "docs" / "pictures" / f"{name}.png"
    target.parent.mkdir(exist_ok=True)
    Image.open(io.BytesIO(png)).convert("RGB").quantize(160).save(target, optimize=True)
    print(f"{target.relative_to(CHECKOUT)}: {target.stat().st_size // 1000} kB")


if __name__ == "__main__":
    main()
