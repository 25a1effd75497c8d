"""`python -m tests.neighbours.environment`: the environment of the real clients, made once.

It lies in `.venv-neighbours/`, under the digest of what it holds, so that a change of
`requirements.txt` makes another one.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from tests.service import ROOT

__all__ = ["Unavailable", "client_python", "is_required"]

REQUIREMENTS = Path(__file__).parent / "requirements.txt"
FOLDER = ROOT / ".venv-neighbours"
PATIENCE_S = 300


class Unavailable(Exception):
    """The packages cannot be had here."""


def is_required() -> bool:
    """Where everything is checked, nothing is skipped."""
    return os.environ.get("CI", "").lower() in {"1", "true"}


def client_python() -> Path:
    """The interpreter that has the clients. Makes it first if need be; raises Unavailable."""
    known = REQUIREMENTS.read_bytes() + sys.version.encode()
    home = FOLDER / hashlib.sha256(known).hexdigest()[:12]
    python = home / "bin" / "python"
    if not (home / "complete").exists():
        shutil.rmtree(FOLDER, ignore_errors=True)  # also those of other requirements
        _run(sys.executable, "-m", "venv", str(home))
        _run(
            *(str(python), "-m", "pip", "install", "--disable-pip-version-check", "--quiet"),
            *("--no-deps", "--no-compile", "--requirement", str(REQUIREMENTS)),
        )
        (home / "complete").touch()
    return python


def _run(*command: str) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=PATIENCE_S)
    except subprocess.CalledProcessError as error:
        raise Unavailable(error.stderr.strip()[-1000:]) from error
    except subprocess.TimeoutExpired as error:
        raise Unavailable(f"{command[2]} took more than {PATIENCE_S} s") from error


def main() -> int:
    began_s = time.monotonic()
    try:
        client_python()
    except Unavailable as error:
        sys.stderr.write(f"the clients of KServe and Triton cannot be installed: {error}\n")
        return int(is_required())
    sys.stdout.write(f"the clients of KServe and Triton: {time.monotonic() - began_s:.0f} s\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
