"""The pictures in `docs/pictures/`: the committed board's site in a real browser, and a verdict in the terminal.

With a folder as its argument it makes pictures of every command at three widths there instead, to look through.
Needs the `browser` extra and a chromium; trains nothing.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
from contextlib import redirect_stdout
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, sync_playwright
from rich.console import Console
from rich.terminal_theme import DEFAULT_TERMINAL_THEME, MONOKAI, TerminalTheme
from rich.text import Text

from harness.board.leaderboard import read_board
from harness.board.submission import Claim, load_submission
from harness.cli.run import show_contest
from harness.core.project import CHECKOUT, Project
from harness.core.terminal import fit
from harness.core.track import load_track
from harness.lab.arms import Entry, choose_arms, run_command
from harness.lab.contest import Contest
from harness.show.site import write_site

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync"]
PICTURES = CHECKOUT / "docs" / "pictures"
SHOTS = {  # name -> (page, theme, height in pixels)
    "board": ("index.html", "light", 885),
    "submission": ("submissions/0049-pocket-short_conv.html", "dark", 860),
}
CLAIM = "0057-pocket-s-token_smear"
COLUMNS = 92
# What a person meets first, and what a typing error gives.
COMMANDS = (
    "--help",
    "run candidate --help",
    "leaderboard",
    "variants",
    "variants token_smear",
    "tracks",
    "tracks pocket",
    "doctor",
    "plan --gain 0.03 --statements 15",
    "noise --stored",
    "verify",
    "explain",
    "judge docs/examples/modded-nanogpt.json",
    "data info",
    "tracks pokcet",
    "run candidate --variant smear",
    "submit",
)
WIDTHS = (60, 80, 120)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        if len(sys.argv) > 1:
            every_command(browser, Path(sys.argv[1]))
            return
        write_site(Project(CHECKOUT), Path(folder))
        for name, (path, theme, height) in SHOTS.items():
            page = browser.new_page(
                viewport={"width": 1160, "height": height}, color_scheme=theme, device_scale_factor=1.5
            )
            page.goto((Path(folder) / path).as_uri(), wait_until="networkidle")
            save(PICTURES / f"{name}.png", page.screenshot())
        command, printed = claimed_verdict(Project(CHECKOUT))
        save(PICTURES / "terminal.png", in_a_terminal(browser, command, printed, COLUMNS))


def every_command(browser: Browser, folder: Path) -> None:
    """A picture of each command at each width, dark and light by turns, to look through."""
    for command in COMMANDS:
        for place, width in enumerate(WIDTHS):
            environment = {**os.environ, "FORCE_COLOR": "1", "COLUMNS": str(width)}
            done = subprocess.run(
                [sys.executable, "-m", "harness.cli", *command.split()],
                cwd=CHECKOUT,
                capture_output=True,
                text=True,
                check=False,
                env=environment,
            )
            printed = done.stdout or fit(done.stderr.strip(), width)  # progress goes to stderr, too
            theme = (MONOKAI, DEFAULT_TERMINAL_THEME)[place % 2]
            name = re.sub(r"[^a-z0-9]+", "-", command).strip("-")
            save(folder / f"{name}-{width}.png", in_a_terminal(browser, command, printed, width, theme))


def claimed_verdict(project: Project) -> tuple[str, str]:
    """What `run candidate` prints of a committed claim, in its colours, out of the claim's own runs."""
    submission = load_submission(project.submissions / CLAIM)
    folder, verdict = project.submissions / CLAIM, submission.verdict
    assert verdict is not None, "a record has one"
    entry = Entry(added=tuple(submission.candidate.recipe.split("+")[1:]))
    arms = choose_arms(read_board(project), load_track(project, submission.track), entry)
    record, candidate = Claim(folder, submission).finished.values()
    os.environ.update(FORCE_COLOR="1", COLUMNS=str(COLUMNS))
    with redirect_stdout(io.StringIO()) as printed:
        show_contest(Contest(arms, tuple(record), tuple(candidate), (), verdict), arms.remark)
    return run_command(load_track(project, submission.track), entry).removeprefix("llmbench "), printed.getvalue()


def in_a_terminal(browser: Browser, command: str, printed: str, columns: int, theme: TerminalTheme = MONOKAI) -> bytes:
    """What a command printed, as a terminal shows it."""
    screen = Console(record=True, width=columns, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    screen.print(Text(f"$ llmbench {command}", style="bold"))
    screen.print(Text.from_ansi(printed))
    page = browser.new_page(viewport={"width": 1160, "height": 400}, device_scale_factor=1.5)
    page.set_content(f"<body style='margin:0'>{screen.export_svg(title='llmbench', theme=theme)}</body>")
    png = page.locator("svg").screenshot()
    page.close()
    return png


def save(target: Path, png: bytes) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    Image.open(io.BytesIO(png)).convert("RGB").quantize(160).save(target, optimize=True)
    print(f"{target.name}: {target.stat().st_size // 1000} kB")


if __name__ == "__main__":
    main()
