"""The committed `models/shapes/model.pt2`: what it is worth, and what is in the file."""

import json
import warnings
import zipfile
from functools import cache

import numpy as np
import pytest
import torch
from PIL import Image

from models.shapes.draw_samples import FOLDER as SAMPLE_FOLDER
from models.shapes.draw_samples import SAMPLES, draw, names
from models.shapes.network import FEATURE_LAYER, MEAN, STD, ShapesNetwork
from models.shapes.outlines import LABELS
from models.shapes.scenes import POINTING, SIZE, TEST, scene
from models.shapes.train import FOLDER

PROGRAM = FOLDER / "model.pt2"
HELD_OUT = TEST[:1000]


@pytest.fixture(scope="module")
def network():
    exported = torch.export.load(PROGRAM)
    with warnings.catch_warnings():
        # torch 2.13 deep-copies its own deprecated LeafSpec while it unflattens.
        warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)`", FutureWarning)
        return torch.export.unflatten(exported)


@cache
def held_out(seed):
    return scene(seed)


def model_input(pictures):
    """Pictures (B, h, w, 3) in 0..255 to the network's input, by the README's formula."""
    scaled = (np.stack(pictures) / 255 - np.array(MEAN)) / np.array(STD)
    return torch.from_numpy(scaled.transpose(0, 3, 1, 2)).float().contiguous()


def grad_cam(network, images, label=None):
    """Logits, and signed maps of `label` or of each image's best class, written from eq. 1-2."""
    features = []
    handle = network.get_submodule(FEATURE_LAYER).register_forward_hook(
        lambda _module, _args, output: features.append(output)
    )
    try:
        logits = network(images.requires_grad_())
    finally:
        handle.remove()
    score = logits.amax(dim=1) if label is None else logits[:, label]
    (gradient,) = torch.autograd.grad(score.sum(), features)
    maps = torch.einsum("nk,nkij->nij", gradient.double().mean(dim=(2, 3)), features[0].double())
    return logits.detach(), maps.detach()


def peak(heat, size):
    grown = Image.fromarray(heat.float().numpy()).resize((size, size), Image.Resampling.BICUBIC)
    return np.unravel_index(np.asarray(grown).argmax(), (size, size))


def test_held_out_accuracy_is_at_least_95_percent(network):
    scenes = [held_out(seed) for seed in HELD_OUT]
    with torch.no_grad():
        guesses = [
            network(model_input([item.picture for item in scenes[start : start + 100]])).argmax(1)
            for start in range(0, len(scenes), 100)
        ]
    right = torch.cat(guesses).numpy() == [item.label for item in scenes]
    assert right.mean() >= 0.95
    recorded = json.loads((FOLDER / "metrics.json").read_text())["accuracy"]
    assert right.mean() == pytest.approx(recorded, abs=0.01)


def test_pointing_game_is_won_on_at_least_90_percent_of_200_held_out_scenes(network):
    assert len(POINTING) == 200
    scenes = [held_out(seed) for seed in POINTING]
    logits, maps = grad_cam(network, model_input([item.picture for item in scenes]))
    hits = [
        bool(guess == item.label and item.mask[peak(heat, SIZE)])
        for guess, item, heat in zip(logits.argmax(1).tolist(), scenes, maps, strict=True)
    ]
    assert np.mean(hits) >= 0.90
    # A random pixel would win as often as the shapes are large.
    assert np.mean([item.mask.mean() for item in scenes]) < 0.15
    recorded = json.loads((FOLDER / "metrics.json").read_text())["pointing_hits"]
    assert sum(hits) == pytest.approx(recorded, abs=3)


def test_map_is_the_class_activation_map_over_the_count_of_positions(network):
    """A pooled linear head has a closed form (Zhou et al. 2016): w_k = head weight / 256."""
    images = model_input([held_out(POINTING[0]).picture])
    features = []
    handle = network.stage3.register_forward_hook(lambda _m, _a, output: features.append(output))
    network(images)
    handle.remove()
    weight = network.head.weight.detach().double()[LABELS.index("star")]
    truth = torch.einsum("k,nkij->nij", weight, features[0].detach().double()) / 16**2
    _, maps = grad_cam(network, images, LABELS.index("star"))
    assert maps.shape == (1, 16, 16)
    torch.testing.assert_close(maps, truth, rtol=0, atol=1e-6 * float(truth.abs().max()))


def test_file_is_small_and_holds_nothing_of_the_machine_that_made_it():
    assert PROGRAM.stat().st_size <= 1_000_000
    with zipfile.ZipFile(PROGRAM) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    for name, data in content.items():
        for trace in (b"/usr/", b"/home/", b"/tmp/", b"site-packages", b".py", b"stack_tr"):
            assert trace not in data, (name, trace)
        assert not data.startswith((b"PK", b"\x80")), f"{name} is a pickle"


def test_hooks_fire_on_the_networks_own_module_names(network):
    fired = []
    handles = [
        module.register_forward_hook(lambda *_, name=name: fired.append(name))
        for name, module in network.named_modules()
    ]
    network(torch.zeros(1, 3, SIZE, SIZE))
    for handle in handles:
        handle.remove()
    assert set(fired) == {name for name, _ in ShapesNetwork(len(LABELS)).named_modules()}


def test_a_rows_scores_do_not_depend_on_its_batch(network):
    images = model_input([held_out(seed).picture for seed in POINTING[:5]])
    with torch.no_grad():
        alone, together = network(images[3:4]), network(images)
    torch.testing.assert_close(together[3:4], alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("sample", SAMPLES)
def test_committed_sample_is_what_the_generator_draws(sample):
    committed = np.asarray(Image.open(SAMPLE_FOLDER / f"{sample}.png"))
    picture, _ = draw(sample)
    # Other processors may round a sine or an edge differently.
    assert np.abs(committed.astype(int) - picture).mean() < 0.5


@pytest.mark.parametrize("sample", SAMPLES)
def test_network_names_each_sample_and_points_at_each_of_its_shapes(network, sample):
    image = Image.open(SAMPLE_FOLDER / f"{sample}.png")
    _, masks = draw(sample)
    small = image.resize((SIZE, SIZE), Image.Resampling.BILINEAR)
    for name, mask in zip(names(sample), masks, strict=True):
        logits, maps = grad_cam(network, model_input([np.asarray(small)]), LABELS.index(name))
        best = logits[0].topk(len(masks)).indices.tolist()
        assert sorted(LABELS[index] for index in best) == sorted(names(sample))
        assert mask[peak(maps[0], image.width)]


def test_every_committed_sample_is_declared():
    assert {path.stem for path in SAMPLE_FOLDER.iterdir()} == set(SAMPLES)
    assert set(SAMPLES.values()) <= set(TEST)
