"""Train the shapes network: `python -m models.shapes.train` writes model.pt2 and metrics.json.

It renders its own scenes, learns from the labels and takes a few minutes on two CPU cores.
Learning goes from near to far: the first epochs show close-ups, cut from the scenes about the
object, the rest whole scenes. Averaged over a whole scene the few positions on an object hardly
move the score, and learning would begin with a long plateau. Beyond the place of the close-ups,
no mask enters the training.

Reproducible means: on one machine, with the versions of constraints.txt, two runs write the same
bytes. On another processor sums may round differently, so weights and, by a few tenths of a
percent, metrics can differ there.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn

from models.shapes.evaluate import Scenes, accuracy, load, pointing_hits, render
from models.shapes.export import save
from models.shapes.network import ShapesNetwork, normalise
from models.shapes.outlines import LABELS
from models.shapes.scenes import POINTING, SIZE, TEST, TRAINING, VALIDATION

SEED: Final = 0
THREADS: Final = 2
BATCH: Final = 64
CLOSE_UP_EPOCHS: Final = 9
SCENE_EPOCHS: Final = 5
CLOSE_UP: Final = 80
"""Side of a close-up, in pixels: room for the largest shape."""
JITTER: Final = 14
"""How far a close-up may be off the object's centre, in pixels."""
PEAK_RATE: Final = 4e-3
FOLDER: Final = Path(__file__).parent


def centres(masks: Tensor) -> Tensor:
    """(N, 2) mean row and column of (N, 128, 128) masks."""
    places = torch.arange(masks.shape[1], dtype=torch.float32)
    rows, columns = masks.sum(dim=2).float(), masks.sum(dim=1).float()
    moments = torch.stack([rows @ places, columns @ places], dim=1)
    return moments / rows.sum(dim=1, keepdim=True)


def close_ups(pictures: Tensor, middles: Tensor) -> Tensor:
    """(B, 80, 80, 3) cuts of (B, 128, 128, 3) pictures, not far from (B, 2) middles."""
    off = torch.randint(-JITTER, JITTER + 1, middles.shape)
    corners = (middles - CLOSE_UP / 2 + off).clamp(0, SIZE - CLOSE_UP).int().tolist()
    return torch.stack(
        [
            picture[row : row + CLOSE_UP, column : column + CLOSE_UP]
            for picture, (row, column) in zip(pictures, corners, strict=True)
        ]
    )


def varied(pictures: Tensor) -> Tensor:
    """Network input with colours exchanged, mirrored and turned at random, a batch at a time."""
    images = normalise(pictures[..., torch.randperm(3)])
    if torch.rand(()) < 0.5:
        images = images.flip(3)
    images = torch.rot90(images, int(torch.randint(4, ())), (2, 3))
    return images.contiguous(memory_format=torch.channels_last)


def train(scenes: Scenes, validation: Scenes) -> ShapesNetwork:
    """A trained network, in eval mode; prints its progress."""
    torch.manual_seed(SEED)
    network = ShapesNetwork(len(LABELS))
    middles = centres(torch.from_numpy(scenes.masks))
    epochs = CLOSE_UP_EPOCHS + SCENE_EPOCHS
    batches = len(scenes.labels) // BATCH
    optimiser = torch.optim.AdamW(network.parameters(), weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, PEAK_RATE, total_steps=epochs * batches, pct_start=0.15
    )
    criterion = nn.CrossEntropyLoss(label_smoothing=0.05)
    for epoch in range(epochs):
        network.train()
        total = 0.0
        order = torch.randperm(len(scenes.labels))[: batches * BATCH]
        for chosen in torch.split(order, BATCH):
            pictures = scenes.pictures[chosen]
            if epoch < CLOSE_UP_EPOCHS:
                pictures = close_ups(pictures, middles[chosen])
            loss = criterion(network(varied(pictures)), scenes.labels[chosen])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            total += loss.item()
        network.eval()
        report = f"epoch {epoch + 1:2}/{epochs}  loss {total / batches:.3f}"
        if epoch >= CLOSE_UP_EPOCHS:
            report += f"  validation accuracy {accuracy(network, validation):.3f}"
        print(report, flush=True)
    return network


def metrics(network: nn.Module) -> dict[str, object]:
    """Accuracy and the pointing game of the loaded program on the held-out scenes."""
    test, pointing = render(TEST), render(POINTING)
    hits = pointing_hits(network, pointing)
    return {
        "accuracy": round(accuracy(network, test), 4),
        "accuracy_scenes": len(TEST),
        "pointing_share": round(float(hits.mean()), 4),
        "pointing_hits": int(hits.sum()),
        "pointing_scenes": len(POINTING),
        "pointing_share_of_a_random_pixel": round(float(pointing.masks.mean()), 4),
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "training_scenes": len(TRAINING),
        "seed": SEED,
        "torch": torch.__version__,
    }


def main() -> None:
    """Train, write the program, and measure what was written."""
    parser = argparse.ArgumentParser(description="Train the shapes network from generated scenes.")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where to write the files")
    folder: Path = parser.parse_args().folder
    started, started_cpu = time.perf_counter(), time.process_time()
    torch.set_num_threads(THREADS)
    torch.use_deterministic_algorithms(mode=True)

    print(f"rendering {len(TRAINING) + len(VALIDATION)} scenes", flush=True)
    network = train(render(TRAINING), render(VALIDATION))
    save(network, folder / "model.pt2")
    measured = metrics(load(folder / "model.pt2"))
    (folder / "metrics.json").write_text(json.dumps(measured, indent=2) + "\n")
    print(json.dumps(measured, indent=2))
    wall, cpu = time.perf_counter() - started, time.process_time() - started_cpu
    print(f"{wall:.0f} s wall, {cpu:.0f} s of CPU time beside the rendering processes")


if __name__ == "__main__":
    main()
