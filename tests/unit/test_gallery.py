"""Pictures for the report: what is drawn lies where the numbers say; faces are chosen by the rule in the caption."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from fusiform import gallery
from fusiform.config import ViTConfig
from fusiform.gallery import GAP, HIDDEN, PALETTE, SHOWN_SIDE
from fusiform.measurement import Crop
from fusiform.methods.mae_face import MAEFace
from fusiform.nn.masking import RandomMasker
from fusiform.nn.vit import ViT
from fusiform.recipes.mae_face import MAEFaceConfig
from fusiform.report import RunSummary
from fusiform.report.pictures import Tile
from fusiform.tasks.task import Labelled

VIT = ViTConfig(image_size=32, patch_size=8, width=24, depth=2, heads=3)


class Oracle(MAEFace):
    """Predicts exactly what it should."""

    def reconstruct(self, patches: torch.Tensor, mask: Any) -> torch.Tensor:
        return self.target(patches, mask)


def oracle(*, norm_pix: bool) -> Oracle:
    torch.manual_seed(0)
    built = MAEFaceConfig(decoder_width=12, decoder_depth=1, decoder_heads=3).build(VIT)
    return Oracle(built.encoder, built.decoder, RandomMasker(0.75), norm_pix=norm_pix)


def noise(count: int, side: int = 32, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def panels(tile: Tile, count: int) -> list[NDArray[np.uint8]]:
    """A tile's images, as int."""
    whole = np.asarray(Image.open(io.BytesIO(tile.image)).convert("RGB"))
    width = (whole.shape[1] + GAP) // count - GAP
    assert whole.shape[0] == width
    return [whole[:, i * (width + GAP) : i * (width + GAP) + width].astype(int) for i in range(count)]


def labelled(images: NDArray[np.uint8], target: NDArray[Any]) -> Labelled:
    n = len(images)
    return Labelled(
        dataset="made-up",
        images=images,
        target=target,
        person=np.array([f"p{i}" for i in range(n)]),
        split=np.full(n, "test"),
        keys=np.array([f"k{i}" for i in range(n)]),
        crop=Crop("loose", images.shape[1], "exact-points"),
    )


# ------------------------------------------------------------------------------------------ reconstructions


@pytest.mark.parametrize("norm_pix", [False, True])
def test_a_perfect_decoder_paints_the_face(norm_pix: bool) -> None:
    """Holds un-normalising, patch order and pasting to the pixels they came from."""
    images = noise(3)
    faces = torch.from_numpy(images).permute(0, 3, 1, 2)
    visible, painted, error = gallery.reconstruct(oracle(norm_pix=norm_pix), faces, 5)
    assert error == pytest.approx(0.0, abs=1e-9)
    assert np.abs(painted.astype(int) - images).max() <= 1
    assert visible.sum(1).tolist() == [4, 4, 4]


def test_visible_patches_are_pasted_back_and_hidden_ones_are_painted() -> None:
    torch.manual_seed(1)
    method = MAEFaceConfig(decoder_width=12, decoder_depth=1, decoder_heads=3, norm_pix=False).build(VIT)
    images = noise(2)
    visible, painted, _ = gallery.reconstruct(method, torch.from_numpy(images).permute(0, 3, 1, 2), 0)
    shown = visible.reshape(2, 4, 4).numpy().repeat(8, 1).repeat(8, 2)
    assert (painted[shown] == images[shown]).all()
    assert np.abs(painted[~shown].astype(int) - images[~shown]).mean() > 10


def test_reconstructions_show_what_the_encoder_saw() -> None:
    method = oracle(norm_pix=True).train()
    before = torch.random.get_rng_state()
    smooth = np.repeat(np.repeat(noise(4, 4), 8, 1), 8, 2)  # flat patches: JPEG and resizing leave their middles alone
    picture = gallery.reconstructions(method, smooth, seed=3, count=3)
    assert method.training
    assert torch.equal(before, torch.random.get_rng_state())
    assert len(picture.tiles) == 3
    assert len(picture.columns) == 3
    assert "75 % of the patches are hidden" in picture.caption
    assert "taken from the true patch" in picture.caption
    assert "taken from the true patch" not in gallery.reconstructions(oracle(norm_pix=False), smooth, seed=3).caption
    visible, _, _ = gallery.reconstruct(method, torch.from_numpy(smooth[:3]).permute(0, 3, 1, 2), 3)
    for i, tile in enumerate(picture.tiles):
        original, seen, _ = panels(tile, 3)
        side = original.shape[0] // 4
        for patch in range(16):
            y, x = (patch // 4 * side + side // 2, patch % 4 * side + side // 2)
            expected = original[y, x] if visible[i, patch] else np.full(3, HIDDEN)
            assert np.abs(seen[y, x] - expected).max() < 12
    again = gallery.reconstructions(method, smooth.transpose(0, 3, 1, 2), seed=3, count=3)
    assert again == picture
    assert gallery.reconstructions(method, smooth, seed=4, count=3) != picture


# ------------------------------------------------------------------------------------------ neighbours


def test_neighbours_are_the_most_similar_and_framed_where_they_are_one_person() -> None:
    rng = np.random.default_rng(0)
    people = np.repeat(np.array(["a", "b", "c", "d"]), 3)
    centres = rng.normal(size=(4, 16))
    embedding = (centres[np.repeat(np.arange(4), 3)] + 0.01 * rng.normal(size=(12, 16))).astype(np.float32)
    embedding *= rng.uniform(0.1, 10, (12, 1)).astype(np.float32)  # cosine does not look at lengths
    picture = gallery.neighbours(embedding, noise(12), people, queries=4, k=3)
    assert len(picture.tiles) == 4
    assert all("2 of them show the same person" in tile.alt for tile in picture.tiles)
    assert "in 100 % (by chance 18.2 %)" in picture.caption
    green = [int(np.abs(panel[2, 2] - (31, 122, 92)).max() < 30) for panel in panels(picture.tiles[0], 4)]
    assert green == [0, 1, 1, 0]


def test_neighbours_of_unknown_people_have_no_frames() -> None:
    embedding = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    for person in (np.full(6, ""), np.array(list("abcdef"))):
        picture = gallery.neighbours(embedding, noise(6), person, queries=2, k=9)
        assert "frame" not in picture.caption
        assert "people unknown" in picture.tiles[0].alt
        assert "5 nearest" in picture.tiles[0].alt


def test_faces_without_a_mate_do_not_count() -> None:
    embedding = np.eye(4, dtype=np.float32)
    embedding[1] = embedding[0]
    picture = gallery.neighbours(embedding, noise(4), np.array(["a", "a", "b", ""]), queries=9)
    assert len(picture.tiles) == 1
    assert "Over all 2 faces that have another of their person among the 4" in picture.caption


# ------------------------------------------------------------------------------------------ points and parsing


def test_points_are_drawn_where_they_are() -> None:
    images = np.zeros((1, 32, 32, 3), np.uint8)
    truth = np.array([[[8.5, 8.5], [24.0, 10.0]]])
    guess = np.array([[[20.5, 20.5], [24.0, 26.0]]])
    picture = gallery.alignment(labelled(images, truth), guess)
    (panel,) = panels(picture.tiles[0], 1)
    scale = panel.shape[0] / 32
    assert panel.shape[0] >= SHOWN_SIDE

    def at(x: float, y: float) -> NDArray[np.int64]:
        return panel[int(y * scale), int(x * scale)]

    assert at(8.5, 8.5).min() > 200
    assert at(24, 10).min() > 200
    assert np.abs(at(20.5, 20.5) - (255, 92, 53)).max() < 60
    assert np.abs(at(24, 26) - (255, 92, 53)).max() < 60
    assert at(24, 18)[0] > 100  # the line between a pair
    assert at(4, 28).max() < 20


def test_faces_are_shown_from_the_smallest_to_the_largest_error() -> None:
    truth = np.tile(np.random.default_rng(0).uniform(4, 28, (1, 68, 2)), (9, 1, 1))
    truth[:, 36], truth[:, 45] = (8.0, 12.0), (24.0, 12.0)  # 16 pixels between the eyes
    order = np.array([4, 7, 1, 0, 8, 2, 6, 3, 5])
    guess = truth + np.array([1.0, 0.0]) * 0.16 * order[:, None, None]  # errors of 0, 1, ... 8 %
    picture = gallery.alignment(labelled(noise(9), truth), guess, count=3)
    assert [t.label for t in picture.tiles] == [
        "smallest: 0.0 % of the eye distance",
        "median: 4.0 % of the eye distance",
        "largest: 8.0 % of the eye distance",
    ]
    assert "3 of 9" in picture.caption
    black = np.zeros((9, 32, 32, 3), np.uint8)
    beside = gallery.alignment(labelled(black, truth), guess, count=3, untrained=guess + 5)
    assert beside.columns == ("untrained", "trained")
    first, second = panels(beside.tiles[0], 2)
    assert (first.mean(-1) > 60).sum() > 1.2 * (second.mean(-1) > 60).sum()  # long lines left, points only right


def test_parsing_is_painted_in_the_colours_of_its_legend() -> None:
    images = np.full((2, 32, 32, 3), 128, np.uint8)
    truth = np.full((2, 32, 32), 255, np.uint8)
    truth[:, 8:24, 8:24], truth[:, 12:20, 12:20] = 1, 2
    guess = np.where(truth == 2, 1, 5).astype(np.uint8)
    guess[0] = truth[0]
    classes = ["background", "skin", "nose", "x", "l_eye", "r_eye"]
    picture = gallery.parsing(labelled(images, truth), guess, classes)
    assert [t.label.split(":")[1] for t in picture.tiles] == [
        " 0.0 % of the labelled pixels wrong",
        " 100.0 % of the labelled pixels wrong",
    ]
    names = dict(picture.legend)
    assert list(names) == ["skin", "nose", "right eye"]
    assert names["skin"] == "#{:02x}{:02x}{:02x}".format(*PALETTE[1])
    face, true, predicted = panels(picture.tiles[1], 3)
    scale = face.shape[0] // 32

    def mixed(c: int) -> NDArray[np.float64]:
        return 0.35 * 128 + 0.65 * np.array(PALETTE[c])

    for panel, nose, skin in ((true, 2, 1), (predicted, 1, 5)):
        assert np.abs(panel[16 * scale, 16 * scale] - mixed(nose)).max() < 8
        assert np.abs(panel[10 * scale, 10 * scale] - mixed(skin)).max() < 8
        assert np.ptp(panel[2 * scale, 2 * scale]) < 5  # unlabelled: bare, and grey
    assert "without a label are left bare" in picture.caption


def test_all_pictures_of_a_report_are_small(tmp_path: Any) -> None:
    """Noise is the worst case for JPEG."""
    faces = labelled(noise(60, 64), np.random.default_rng(0).uniform(4, 60, (60, 68, 2)))
    maps = replace(faces, target=np.random.default_rng(0).integers(0, 19, (60, 64, 64)))
    embedding = np.random.default_rng(0).normal(size=(60, 8)).astype(np.float32)
    torch.manual_seed(0)
    method = MAEFaceConfig(decoder_width=12, decoder_depth=1, decoder_heads=3).build(replace(VIT, image_size=64))
    pictures = [
        gallery.reconstructions(method, faces.images, 0),
        gallery.neighbours(embedding, faces.images, faces.person),
        gallery.alignment(faces, faces.target),
        gallery.parsing(maps, maps.target, [str(i) for i in range(19)]),
    ]
    assert sum(len(t.image) for p in pictures for t in p.tiles) * 4 / 3 < 6e6
    gallery.save(pictures, tmp_path)
    assert gallery.load(tmp_path) == pictures


def test_the_report_counts_the_encoders_weights() -> None:
    for vit in (VIT, ViTConfig(image_size=64, patch_size=8, width=48, depth=3, heads=3, mlp_ratio=2.0)):
        counted = sum(p.numel() for p in ViT(vit).parameters() if p.requires_grad)
        config = {
            "vit": {"patch_size": vit.patch_size, "width": vit.width, "depth": vit.depth, "mlp_ratio": vit.mlp_ratio}
        }
        assert RunSummary("", "", "", "", config, (), True).parameters == counted
