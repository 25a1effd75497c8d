"""`python -m app.openapi [--check]`: write the committed OpenAPI document, or compare with it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from app.main import create_app
from camserve.settings import Settings

__all__ = ["PATH", "render"]

PATH = Path(__file__).parent.parent / "openapi" / "openapi.json"


def render() -> str:
    """The document of this code, as it is committed."""
    app = create_app(Settings(redis_url="redis://unused"))
    return json.dumps(app.openapi(), indent=2, ensure_ascii=False) + "\n"


def main() -> int:
    if "--check" not in sys.argv:
        PATH.write_text(render(), "utf-8")
        return 0
    if PATH.read_text("utf-8") == render():
        return 0
    sys.stderr.write(f"{PATH} is not what the code says: run `python -m app.openapi`\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
