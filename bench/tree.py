"""The tree that a benchmark is run from."""

import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def commit() -> str:
    """Of the tree that this file lies in, marked if anything but documentation differs from it."""
    named = _git("describe", "--always", "--exclude=*")
    return (
        f"{named}-dirty"
        if named and _git("status", "--porcelain", "--", ".", ":!docs", ":!*.md")
        else named or "unknown"
    )


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip()
