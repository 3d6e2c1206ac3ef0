"""How `src/fusiform/curate/covered.npz` was made: `python -m bench.covering --data DIR --out FILE`.

A small convolutional network that says which cells of an aligned face are covered. Rendered faces, and every other
person of the photographed sets, with things put before them: half planes, blobs, bands and masks of one colour, shaded,
striped, clouded, of the face's own skin, or torn from other pictures. Shadows, blur, noise, compression and light are
put on covered and uncovered faces alike, so that they are no sign. What is measured is on the other half of the people.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from fusiform.curate.covering import CELLS, INNER, SIDE, prepared, score
from fusiform.faces.align import crop, place, template
from fusiform.faces.schemes import to_five

Picture = NDArray[np.uint8]
Rng = np.random.Generator
INNER_SIDE = 64


def rendered(data: Path, every: int) -> Iterator[Picture]:
    onto = template("arcface", INNER_SIDE)
    for archive in sorted((data / "rendered").glob("train-*.tar")):
        with tarfile.open(archive) as tar:
            names = sorted(n for n in tar.getnames() if n.endswith(".json"))[::every]
            for name in names:
                about = json.load(tar.extractfile(name))  # type: ignore[arg-type]
                if about["attrs"].get("sunglasses") or abs(about["pose"][0]) > 50:
                    continue
                five = to_five(np.array(about["landmarks"])[:, :2], "ibug-68")
                image = Image.open(io.BytesIO(tar.extractfile(name.replace(".json", ".jpg")).read()))  # type: ignore[union-attr]
                yield crop(np.asarray(image.convert("RGB"), np.uint8), place(five, onto))


def photographed(data: Path) -> Iterator[tuple[str, Picture]]:
    """(person, inner face) of London, Congress and Olivetti, found by the usual models."""
    from fusiform.curate import models
    from fusiform.curate.photo import order_by_size
    from fusiform.curate.points import find_points

    finder = models.load_in_worker(models.choose(offline=True), None)
    onto = template("arcface", INNER_SIDE)
    real = data / "real"
    paths = [*sorted((real / "congress/a").glob("*.jpg")), *sorted((real / "london/images").glob("*.jpg"))]
    paths += [*sorted((real / "orl").glob("*.png"))[::2], *sorted((real / "congress/b").glob("*.jpg"))]
    for path in paths:
        image = np.asarray(Image.open(path).convert("RGB"), np.uint8)
        found = sorted(finder.faces(image), key=order_by_size)
        if found and (five := find_points(finder, image, found[0], 0.5).five) is not None:
            yield path.stem.split("_")[0], crop(image, place(five, onto))


def texture(face: Picture, others: NDArray[np.uint8], rng: Rng) -> Picture:
    """(64, 64, 3) of something."""
    side, kind = INNER_SIDE, int(rng.integers(7))
    if kind == 0:
        return np.full((side, side, 3), rng.integers(0, 256, 3), np.uint8)
    if kind == 1:
        coarse = rng.integers(0, 256, (*rng.integers(2, 10, 2), 3)).astype(np.uint8)
        return np.asarray(cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC), np.uint8)
    if kind == 2:
        y, x = np.mgrid[:side, :side]
        angle, period = rng.uniform(0, np.pi), rng.uniform(3, 16)
        wave = np.sin((x * np.cos(angle) + y * np.sin(angle)) * 2 * np.pi / period)[..., None] * rng.uniform(0.5, 4)
        low, high = rng.integers(0, 256, (2, 3))
        return np.clip(low + (high - low) * (0.5 + 0.5 * np.clip(wave, -1, 1)), 0, 255).astype(np.uint8)
    if kind in (3, 4):  # of the skin's colour, shaded: a hand; or of one colour, shaded: cloth
        base = np.median(face[30:44, 12:52].reshape(-1, 3), 0) if kind == 3 else rng.integers(0, 256, 3)
        base = base * rng.uniform(0.75, 1.25) + rng.normal(0, 6, 3)
        y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
        shade = 1 + rng.uniform(-0.3, 0.3) * x + rng.uniform(-0.3, 0.3) * y + rng.uniform(-0.2, 0.2) * (x * x + y * y)
        coarse = cv2.resize(rng.normal(0, rng.uniform(0, 12), (12, 12)).astype(np.float32), (side, side))
        return np.clip(base * shade[..., None] + coarse[..., None], 0, 255).astype(np.uint8)
    if kind == 5:
        return rng.integers(0, 256, (side, side, 3)).astype(np.uint8)
    other = others[rng.integers(len(others))]  # a piece of another picture's edge, enlarged
    edge = [other[:16, :20], other[:16, -20:], other[-14:, :16], other[-14:, -16:]][int(rng.integers(4))]
    return np.asarray(cv2.resize(edge, (side, side), interpolation=cv2.INTER_CUBIC), np.uint8)


def shape(rng: Rng) -> Picture:
    """(64, 64) mask, 255 where something stands before the face."""
    side, kind = INNER_SIDE, int(rng.integers(6))
    mask = np.zeros((side, side), np.uint8)
    if kind == 0:  # half of the face from any direction
        y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
        angle = rng.uniform(0, 2 * np.pi) if rng.random() < 0.4 else rng.integers(4) * np.pi / 2
        mask[x * np.cos(angle) + y * np.sin(angle) > rng.uniform(-0.2, 0.6)] = 255
    elif kind == 1:  # a band, level or not
        middle, half = rng.uniform(10, 56), rng.uniform(5, 14)
        y, x = np.mgrid[:side, :side]
        mask[np.abs(y - middle + (x - 32) * rng.uniform(-0.4, 0.4)) < half] = 255
    elif kind == 2:  # a mask over nose and mouth
        top = rng.uniform(34, 46)
        points = [(rng.uniform(0, 8), top + rng.uniform(0, 5)), (32, top - rng.uniform(0, 4))]
        points += [(rng.uniform(56, 63), top + rng.uniform(0, 5)), (rng.uniform(52, 60), 63), (rng.uniform(4, 12), 63)]
        cv2.fillPoly(mask, [np.array(points, np.int32)], 255)
    elif kind == 3:
        at = rng.uniform(12, 52, 2).astype(int).tolist()
        axes = rng.uniform(9, 30, 2).astype(int).tolist()
        cv2.ellipse(mask, at, axes, rng.uniform(0, 180), 0, 360, 255, -1)
    elif kind == 4:
        centre, count = rng.uniform(10, 54, 2), int(rng.integers(3, 8))
        angles = np.sort(rng.uniform(0, 2 * np.pi, count))
        spread = rng.uniform(10, 34, count)
        points = centre + spread[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1)
        cv2.fillPoly(mask, [points.astype(np.int32)], 255)
    else:  # fingers
        for _ in range(int(rng.integers(2, 5))):
            start, angle = rng.uniform(5, 59, 2), rng.uniform(0, np.pi)
            end = start + 50 * np.array([np.cos(angle), np.sin(angle)])
            cv2.line(mask, start.astype(int).tolist(), end.astype(int).tolist(), 255, int(rng.integers(6, 14)))
    return mask


def moved(face: Picture, rng: Rng) -> Picture:
    """As a landmark model that is a little off would have cut it out."""
    turn = cv2.getRotationMatrix2D((32, 32), rng.normal(0, 5), rng.uniform(0.88, 1.12))
    turn[:, 2] += rng.normal(0, 2.0, 2)
    return np.asarray(cv2.warpAffine(face, turn, (64, 64), borderMode=cv2.BORDER_REPLICATE), np.uint8)


def worn(face: Picture, rng: Rng) -> Picture:
    """Light, shadow, colour, blur, noise and compression."""
    image = face.astype(np.float32)
    if rng.random() < 0.4:
        image = image.mean(2, keepdims=True).repeat(3, 2)
    if rng.random() < 0.4:  # a shadow over part of it, soft or hard
        y, x = np.mgrid[-1:1:64j, -1:1:64j]
        angle = rng.uniform(0, 2 * np.pi)
        lit = 1 / (1 + np.exp(-(x * np.cos(angle) + y * np.sin(angle) - rng.uniform(-0.6, 0.6)) * rng.uniform(2, 12)))
        image = image * (1 - rng.uniform(0.1, 0.75) * lit[..., None])
    image = image * rng.uniform(0.4, 1.4) + rng.normal(0, 12)
    image = np.clip(image * rng.uniform(0.9, 1.1, 3), 0, 255)
    if rng.random() < 0.4:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 2.2))
    if rng.random() < 0.3:
        image = np.clip(image + rng.normal(0, rng.uniform(1, 14), image.shape), 0, 255)
    drawn = image.astype(np.uint8)
    if rng.random() < 0.3:
        out = io.BytesIO()
        Image.fromarray(drawn).save(out, "JPEG", quality=int(rng.integers(15, 80)))
        drawn = np.asarray(Image.open(out).convert("RGB"), np.uint8)
    return drawn


def example(face: Picture, others: NDArray[np.uint8], rng: Rng, covered: bool) -> tuple[Picture, NDArray[np.float32]]:
    """A (64, 64, 3) face, and which share of each cell is covered."""
    image = moved(face[:, ::-1] if rng.random() < 0.5 else face, rng)
    mask = np.zeros((64, 64), np.uint8)
    for _ in range(int(rng.integers(1, 3)) if covered else 0):
        new = shape(rng)
        image = np.where(new[..., None] > 0, texture(image, others, rng), image)
        mask |= new
    if covered and rng.random() < 0.5:
        image = np.where(cv2.dilate(mask, np.ones((3, 3)))[..., None] > 0, cv2.GaussianBlur(image, (0, 0), 0.7), image)
    share = mask.reshape(CELLS, 64 // CELLS, CELLS, 64 // CELLS).mean((1, 3)) / 255
    return worn(image, rng), share.astype(np.float32)


class Network(nn.Sequential):
    def __init__(self, widths: tuple[int, int, int] = (16, 32, 48)) -> None:
        a, b, c = widths
        super().__init__(
            *(nn.Conv2d(3, a, 3, 2, 1), nn.ReLU(), nn.Conv2d(a, b, 3, 2, 1), nn.ReLU()),
            *(nn.Conv2d(b, c, 3, 1, 1), nn.ReLU(), nn.Conv2d(c, c, 3, 1, 1), nn.ReLU(), nn.Conv2d(c, 1, 1)),
        )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.covering", description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--cache", type=Path, default=Path("faces.npz"), help="inner faces, kept between two tries")
    flags = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    if not flags.cache.exists():
        drawn = np.stack(list(rendered(flags.data, 2)))
        many = list(photographed(flags.data))
        people = np.array([person for person, _ in many])
        np.savez(flags.cache, drawn=drawn, photos=np.stack([image for _, image in many]), people=people)
    stored = np.load(flags.cache)
    names = sorted(set(stored["people"].tolist()))
    learned = np.isin(stored["people"], names[::2])
    real, held = stored["photos"][learned], stored["photos"][~learned]
    pools = [stored["drawn"], real, real]
    sys.stdout.write(f"{len(pools[0])} rendered, {len(real)} photographed, {len(held)} held out\n")

    net = Network()
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3, weight_decay=1e-3)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, flags.steps)
    for step in range(flags.steps):
        batch = []
        for i in range(64):
            pool = pools[i % len(pools)]
            batch.append(example(pool[rng.integers(len(pool))], real, rng, covered=i % 2 == 0))
        pixels = torch.from_numpy(np.stack([prepared(image) for image, _ in batch]))
        wanted = torch.from_numpy(np.stack([share for _, share in batch]))
        loss = nn.functional.binary_cross_entropy_with_logits(net(pixels)[:, 0], wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rate.step()
        if step % 500 == 499:
            sys.stdout.write(f"step {step + 1}: loss {loss.item():.3f}\n")
            sys.stdout.flush()
            save(net, flags.out)
    measure(flags.out, held)


def save(net: Network, out: Path) -> None:
    arrays: dict[str, Any] = {}
    for number, layer in enumerate(m for m in net if isinstance(m, nn.Conv2d)):
        arrays[f"weight{number}"] = layer.weight.detach().numpy().astype(np.float16)
        arrays[f"bias{number}"] = (layer.bias.detach().numpy() if layer.bias is not None else 0).astype(np.float32)
    np.savez(out, **arrays)


def measure(out: Path, held: NDArray[np.uint8]) -> None:
    """What is said of the people that were held out, as they are, worn, and covered by a third or more."""
    from fusiform.curate import covering

    weights = covering.load(out)
    rng = np.random.default_rng(1)
    plain = np.array([score(image, weights=weights) for image in held])
    spent = np.array([score(example(image, held, rng, covered=False)[0], weights=weights) for image in held])
    hidden, share = [], []
    for image in held:
        covered, cells = example(image, held, rng, covered=True)
        hidden.append(score(covered, weights=weights))
        share.append(float(cells[INNER].mean()))
    hidden_, share_ = np.array(hidden), np.array(share)
    for limit in (0.05, 0.08, 0.1, 0.12, 0.15, 0.2, 0.25):
        parts = [f"{np.mean(values > limit):.3f}" for values in (plain, spent)]
        for low, high in ((0.1, 0.2), (0.2, 0.35), (0.35, 1.1)):
            inside = (share_ >= low) & (share_ < high)
            parts.append(f"{np.mean(hidden_[inside] > limit):.3f} of {inside.sum()}")
        sys.stdout.write(f"limit {limit}: as they are, worn, .1-.2, .2-.35, .35- covered: {', '.join(parts)}\n")


if __name__ == "__main__":
    assert SIDE == 32
    main()
