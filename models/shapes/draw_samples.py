"""Draw the sample pictures: `python -m models.shapes.draw_samples` writes samples/*.png.

They are held-out scenes, drawn larger than the network's input and without film grain. The file
name says what is in them; the pair shows that the map follows the class that is asked for.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from PIL import Image

from models.shapes.outlines import LABELS
from models.shapes.scenes import Mask, Picture, group

SAMPLE_SIZE: Final = 384
SAMPLES: Final[dict[str, int]] = {
    "arrow": 2_000_272,
    "crescent": 2_000_314,
    "cross": 2_000_219,
    "heart": 2_000_316,
    "star": 2_000_310,
    "heart-star": 2_001_019,
}
"""File name without suffix, shape names joined by hyphens, and the seed of the scene."""

FOLDER: Final = Path(__file__).parent / "samples"


def names(sample: str) -> list[str]:
    """The shapes in a sample: `"heart-star"` holds a heart and a star."""
    return sample.split("-")


def draw(sample: str, size: int = SAMPLE_SIZE) -> tuple[Picture, list[Mask]]:
    """A sample's picture and the mask of each shape, in the order of `names`."""
    labels = tuple(LABELS.index(name) for name in names(sample))
    return group(SAMPLES[sample], labels, size, grain=False)


def main() -> None:
    """Write every sample."""
    FOLDER.mkdir(exist_ok=True)
    for sample in SAMPLES:
        path = FOLDER / f"{sample}.png"
        Image.fromarray(draw(sample)[0]).save(path, optimize=True)
        print(f"{path.name}: {path.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
