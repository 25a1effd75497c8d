"""`python -m benchmarks.rivals.environments`: an environment for each rival, made once.

They lie in `.venv-rivals/`, each under a digest of its requirements. torch and torchvision are
those of this environment, by links: the same build for all, and no gigabytes of copies.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import sysconfig
import time
from importlib import metadata
from pathlib import Path

from benchmarks.running import ROOT

__all__ = ["NAMES", "Unavailable", "python_of"]

REQUIREMENTS = Path(__file__).parent / "requirements"
NAMES = tuple(sorted(path.stem for path in REQUIREMENTS.glob("*.txt")))
FOLDER = ROOT / ".venv-rivals"
SHARED = ("torch", "torchvision")
PATIENCE_S = 600


class Unavailable(Exception):
    """The packages cannot be had here."""


def python_of(name: str) -> Path:
    """The interpreter of an environment. Makes it first if need be; raises Unavailable."""
    requirements = REQUIREMENTS / f"{name}.txt"
    versions = "".join(f"{one} {metadata.version(one)}" for one in SHARED if is_installed(one))
    known = requirements.read_bytes() + sys.version.encode() + versions.encode()
    home = FOLDER / f"{name}-{hashlib.sha256(known).hexdigest()[:12]}"
    python = home / "bin" / "python"
    if not (home / "complete").exists():
        for other in FOLDER.glob(f"{name}-*"):  # of other requirements, or half made
            shutil.rmtree(other)
        _run(sys.executable, "-m", "venv", str(home))
        _link_shared(home)
        _run(
            *(str(python), "-m", "pip", "install", "--disable-pip-version-check", "--quiet"),
            *("--no-deps", "--no-compile", "--requirement", str(requirements)),
        )
        (home / "complete").touch()
    return python


def is_installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def _link_shared(home: Path) -> None:
    """Put links to all that the shared distributions installed onto the environment's path."""
    links = home / "shared"
    links.mkdir()
    for name in filter(is_installed, SHARED):
        files = metadata.files(name) or ()
        for top in {file.parts[0] for file in files} - {"..", "__pycache__"}:
            source = Path(str(metadata.distribution(name).locate_file(top)))
            (links / top).symlink_to(source)
    packages = sysconfig.get_path("purelib", vars={"base": str(home), "platbase": str(home)})
    (Path(packages) / "shared.pth").write_text(f"{links}\n")


def _run(*command: str) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=PATIENCE_S)
    except subprocess.CalledProcessError as error:
        raise Unavailable(error.stderr.strip()[-500:]) from error
    except subprocess.TimeoutExpired as error:
        raise Unavailable(f"{command[2]} took more than {PATIENCE_S} s") from error


def main() -> int:
    failed = False
    for name in NAMES:
        began_s = time.monotonic()
        try:
            python_of(name)
        except Unavailable as error:
            print(f"{name} cannot be installed: {error}", file=sys.stderr)
            failed = True
        else:
            print(f"{name}: {time.monotonic() - began_s:.0f} s")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
