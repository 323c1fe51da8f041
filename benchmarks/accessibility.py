"""axe over every page of the site, light and dark, at a desk's and a phone's width.

    llmbench leaderboard --html site
    npm install --prefix /tmp/axe axe-core
    python benchmarks/accessibility.py site /tmp/axe/node_modules/axe-core/axe.min.js

Prints what axe finds, and fails where it is serious or critical. Needs the `dev` extra and a chromium.
"""

from __future__ import annotations

import shutil
import sys
from collections import Counter
from pathlib import Path

from playwright.sync_api import sync_playwright

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync"]


def main(site: Path, axe: str) -> int:
    found: Counter[str] = Counter()
    pages = sorted(site.rglob("*.html"))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        for scheme in ("light", "dark"):
            for width in (1280, 390):
                page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
                for path in pages:
                    page.goto(path.resolve().as_uri())
                    page.evaluate(axe)
                    for problem in page.evaluate("axe.run()")["violations"]:
                        found[problem["impact"]] += 1
                        where = ", ".join(" ".join(node["target"]) for node in problem["nodes"][:3])
                        print(f"{problem['impact']:9}{problem['id']}: {path.name}, {scheme}, {width}: {where}")
                page.close()
        browser.close()
    print(f"{len(pages)} pages, {dict(found) or 'nothing found'}")
    return int(bool(found["serious"] or found["critical"]))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]).read_text()))
