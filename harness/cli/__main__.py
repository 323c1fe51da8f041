"""So that `python -m harness.cli` is llmbench."""

from harness.cli import main

main()
