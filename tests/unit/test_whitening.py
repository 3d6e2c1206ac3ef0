"""Whitening of the mean of patch tokens: measured without labels, kept with the encoder, used where faces are
compared."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fusiform import recipes
from fusiform.config import LoopConfig, OptimConfig, ViTConfig
from fusiform.embedding import embed
from fusiform.encoder import Encoder
from fusiform.engine import pretrain
from fusiform.errors import ConfigError
from fusiform.export import names
from fusiform.export.graph import EncoderGraph
from fusiform.faces.faceset import FaceSet
from fusiform.faces.shards import StoredFace, commit_chunk, finish_set
from fusiform.infer.seen import Seen
from fusiform.measurement import EXACT_POINTS, Crop
from fusiform.nn.vit import ViT
from fusiform.nn.whitening import Whitening
from fusiform.protocols import KNN, Cosine, LinearProbe, read_out

TINY = ViTConfig(image_size=32, patch_size=8, width=48, depth=2, heads=3, whitened=True)


def test_measured_vectors_have_unit_covariance_where_they_vary() -> None:
    rng = torch.Generator().manual_seed(0)
    mix = torch.randn(6, 6, generator=rng, dtype=torch.float64) * torch.tensor([10.0, 5, 2, 1, 0.5, 0.2]).double()
    x = torch.randn(20_000, 6, generator=rng, dtype=torch.float64) @ mix.T + 3.0
    white = Whitening(6).double()
    white.measure(x, shrink=0.0)
    y = white(x)
    assert torch.allclose(y.mean(0), torch.zeros(6).double(), atol=1e-9)
    assert torch.allclose(torch.cov(y.T), torch.eye(6).double(), atol=1e-6)


def test_shrinking_leaves_a_direction_without_variance_finite_and_small() -> None:
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(500, 4, generator=rng)
    x[:, 3] = 2.0
    white = Whitening(4)
    white.measure(x, shrink=0.01)
    y = white(x)
    assert y.isfinite().all()
    assert torch.linalg.svdvals(torch.cov(y.T))[-1] < 1e-6


def test_equal_faces_give_one_map_whatever_their_order() -> None:
    x = torch.randn(300, 8, generator=torch.Generator().manual_seed(2)) * torch.arange(1, 9)
    a, b = Whitening(8), Whitening(8)
    a.measure(x)
    b.measure(x.flip(0))
    assert torch.allclose(a.matrix, b.matrix, atol=1e-5)


CROP = Crop(template="loose", size=40, detector=EXACT_POINTS)


@pytest.fixture
def encoder() -> Encoder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        vit = ViT(TINY).eval()
    assert vit.whitening is not None
    vit.whitening.measure(torch.randn(200, 48, generator=torch.Generator().manual_seed(1)))
    return Encoder(vit, CROP, pooling="whitened")


def stored(folder: Path, count: int) -> FaceSet:
    rng = np.random.default_rng(0)
    made = []
    for i in range(count):
        data = io.BytesIO()
        Image.fromarray(rng.integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(data, "JPEG", quality=90)
        made.append(StoredFace(key=f"{i:04d}", jpeg=data.getvalue(), labels={}, licence="CC0-1.0"))
    commit_chunk(folder, 0, made, [])
    return finish_set(folder, name="noise", crop=CROP, made_by="tests", created="2026-01-01")


def faces() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)


def test_it_travels_with_the_encoder(encoder: Encoder, tmp_path: Path) -> None:
    again = Encoder.load(encoder.save(tmp_path / "encoder"))
    assert again.pooling == "whitened"
    assert again.sha256 == encoder.sha256
    assert np.array_equal(embed(again, faces(), features="whitened"), embed(encoder, faces(), features="whitened"))


def test_every_reader_of_an_embedding_agrees(encoder: Encoder) -> None:
    expected = embed(encoder, faces(), features="whitened")
    pooled = embed(encoder, faces(), features="pooled")
    assert encoder.vit.whitening is not None
    assert np.allclose(expected, encoder.vit.whitening(torch.from_numpy(pooled)).numpy(), atol=1e-4)
    assert np.allclose(Seen(encoder, faces(), "cpu").form("whitened", None), expected, atol=1e-4)
    unit = expected / np.linalg.norm(expected, axis=1, keepdims=True)
    with torch.inference_mode():
        exported = EncoderGraph(encoder)(torch.from_numpy(faces()))[0].numpy()
    assert np.allclose(exported, unit, atol=1e-4)


def test_only_comparing_reads_it() -> None:
    assert read_out(Cosine(), "whitened") == read_out(KNN(), "whitened") == "whitened"
    assert read_out(LinearProbe(), "whitened", "concat") == "concat"
    assert read_out(LinearProbe(), "whitened", "pooled") == "pooled"


def test_an_inner_layer_and_an_encoder_without_one_are_refused(encoder: Encoder) -> None:
    with pytest.raises(ConfigError, match="final norm"):
        embed(encoder, faces(), features="whitened", layer=0)
    plain = Encoder(ViT(replace(TINY, whitened=False)).eval(), encoder.crop)
    with pytest.raises(ConfigError, match="no whitening"):
        embed(plain, faces(), features="whitened")


def test_timm_gets_everything_else(encoder: Encoder) -> None:
    assert not [name for name in names.timm(encoder.vit, encoder.pooling).state if "whitening" in name]


def test_a_run_measures_it_at_its_end(tmp_path: Path) -> None:
    quick = recipes.find("mae-face-quick")
    recipe = replace(
        quick,
        method=replace(quick.method, decoder_width=24, decoder_depth=1),
        vit=TINY,
        optim=OptimConfig(epochs=1, faces_per_step=8, warmup_epochs=0.1),
        loop=LoopConfig(threads=1, precision="fp32", tune_cpu=False),
    )
    encoder = pretrain(recipe, stored(tmp_path / "set", 24), tmp_path / "run")
    assert encoder.pooling == "whitened"
    assert encoder.vit.whitening is not None
    assert not torch.equal(encoder.vit.whitening.matrix, torch.eye(48))
    assert Encoder.load(tmp_path / "run" / "encoder").sha256 == encoder.sha256
