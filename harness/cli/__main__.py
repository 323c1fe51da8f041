"""Makes `python -m harness.cli` the same as the command `llmbench`."""

from harness.cli import main

if __name__ == "__main__":
    main()
