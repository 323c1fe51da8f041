"""The pictures of the site in `docs/pictures/`, taken from the committed board in a real browser.

Needs the `dev` extra and a chromium.
"""

from __future__ import annotations

import io
import shutil
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from harness.project import CHECKOUT, Project
from harness.site import write_site

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync"]
SHOTS = {  # name -> (page, theme, height in pixels)
    "board": ("index.html", "light", 885),
    "submission": ("submissions/0003-pocket-qk_norm.html", "dark", 860),
}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        write_site(Project(CHECKOUT), Path(folder))
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        for name, (path, theme, height) in SHOTS.items():
            page = browser.new_page(
                viewport={"width": 1160, "height": height}, color_scheme=theme, device_scale_factor=1.5
            )
            page.goto((Path(folder) / path).as_uri(), wait_until="networkidle")
            picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB").quantize(160)
            target = CHECKOUT / "docs" / "pictures" / f"{name}.png"
            target.parent.mkdir(exist_ok=True)
            picture.save(target, optimize=True)
            print(f"{target.relative_to(CHECKOUT)}: {target.stat().st_size // 1000} kB")
        browser.close()


if __name__ == "__main__":
    main()
