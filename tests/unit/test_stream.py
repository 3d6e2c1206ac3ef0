"""A batch is a function of its step and of nothing else."""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
import torch

from fusiform.batch import FaceBatch
from fusiform.config import Colour, DataConfig, ViewConfig
from fusiform.errors import ConfigError, DataError
from fusiform.faces.shards import FaceSet, StoredFace, commit_chunk, finish_set
from fusiform.faces.stream import Stream, batches
from fusiform.measurement import Crop

SIDE, FACES = 32, 23


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> FaceSet:
    folder = tmp_path_factory.mktemp("set")
    rng = np.random.default_rng(0)

    def make() -> Iterator[StoredFace]:
        for i in range(FACES):
            image = np.kron(rng.integers(0, 256, (8, 8, 3), np.uint8), np.ones((4, 4, 1), np.uint8))
            points = np.column_stack([rng.uniform(0, SIDE, (5, 2)), np.ones(5)])
            yield StoredFace(f"face-{i}", simplejpeg.encode_jpeg(image, 95), {"landmarks": points})

    commit_chunk(folder, 0, make(), [])
    crop = Crop(template="loose", size=SIDE, detector="exact-points")
    return finish_set(folder, name="noise", crop=crop, made_by="a test", created="2026-01-01")


@pytest.fixture
def stream(faces: FaceSet) -> Stream:
    return Stream(
        faces, faces.rows(), DataConfig(crop_scale=(0.5, 1.0)), image_size=24, seed=5, faces_per_step=6, landmarks=True
    )


def seen_again(stream: Stream, times: int) -> Stream:
    """The stream with further views that are drawn like the first."""
    return replace(stream, data=replace(stream.data, more_views=stream.data.views[:1] * times))


def same(a: FaceBatch, b: FaceBatch) -> bool:
    assert a.landmarks is not None
    assert b.landmarks is not None
    pairs = [
        (a.images, b.images),
        (a.ids, b.ids),
        (a.boxes, b.boxes),
        (a.flipped, b.flipped),
        (a.landmarks, b.landmarks),
    ]
    return all(torch.equal(x, y) for x, y in pairs)


def test_a_batch_has_the_shapes_it_promises(stream: Stream) -> None:
    batch = seen_again(stream, 2).batch(2)
    assert batch.images.shape == (6, 3, 3, 24, 24)
    assert batch.images.dtype == torch.uint8
    assert batch.ids.dtype == torch.int64
    assert batch.boxes.shape == (6, 3, 4)
    assert batch.flipped.dtype == torch.bool
    assert batch.landmarks is not None
    assert batch.landmarks.shape == (6, 3, 5, 2)
    assert not torch.equal(batch.boxes[:, 0], batch.boxes[:, 1])


def test_each_view_has_its_own_crop_and_colours(stream: Stream) -> None:
    plain = ViewConfig(flip=0.0)  # the whole crop
    coloured = replace(plain, colour=Colour(jitter=(0.4, 0.4, 0.2, 0.1), blur=0.5, solarise=0.5))
    both = replace(stream, data=replace(stream.data, more_views=(plain, coloured)))
    batch, without = both.batch(4), stream.batch(4)
    assert torch.equal(batch.images[:, 0], without.images[:, 0])  # a further view shifts no draw of the first
    assert torch.equal(batch.boxes[:, 0], without.boxes[:, 0])
    assert torch.equal(batch.boxes[:, 1:], torch.tensor([0.0, 0, 1, 1]).expand(6, 2, 4))
    assert (batch.images[:, 1] != batch.images[:, 2]).flatten(1).any(1).all()
    assert torch.equal(batch.images, both.batch(4).images)
    assert batch.clean is None
    kept = replace(both, data=replace(both.data, keep_clean=True)).batch(4)
    assert kept.clean is not None
    assert torch.equal(kept.images, batch.images)
    assert torch.equal(kept.clean[:, 1], kept.images[:, 1])
    assert torch.equal(kept.clean[:, 2], kept.clean[:, 1])  # the whole crop, before its colours were changed
    assert kept.rows(1, 3).clean is not None


def test_an_epoch_sees_each_face_at_most_once_and_epochs_differ(stream: Stream) -> None:
    assert stream.steps_per_epoch == 3
    epochs = [[i for k in range(3) for i in stream.batch(3 * e + k).ids.tolist()] for e in range(30)]
    assert all(len(set(ids)) == 18 for ids in epochs)
    assert len({tuple(ids) for ids in epochs}) == 30
    seen = Counter(i for ids in epochs for i in ids)
    assert len(seen) == FACES  # the rest that an epoch leaves out is another one each time
    assert min(seen.values()) > 10


def test_a_batch_does_not_depend_on_what_was_drawn_before(stream: Stream) -> None:
    first = [stream.batch(s) for s in range(7)]
    np.random.seed(1)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    assert all(same(stream.batch(s), first[s]) for s in reversed(range(7)))
    assert same(pickle.loads(pickle.dumps(stream)).batch(4), first[4])
    assert torch.equal(before, torch.get_rng_state())


def test_seed_epoch_face_and_view_each_change_the_crop(stream: Stream) -> None:
    one = stream.batch(0)
    assert not torch.equal(replace(stream, seed=6).batch(0).boxes, one.boxes)
    row = int(one.ids[0])
    boxes = set()
    for epoch in range(8):
        for step in range(3 * epoch, 3 * epoch + 3):
            batch = stream.batch(step)
            boxes |= {tuple(b[0].tolist()) for i, b in zip(batch.ids, batch.boxes, strict=True) if int(i) == row}
    assert len(boxes) >= 4


def test_another_batch_size_shows_a_face_in_the_same_crops(stream: Stream) -> None:
    """Augmentation belongs to face and epoch, not to the place in a batch."""
    small, large = stream, replace(stream, faces_per_step=12)
    of_small = {int(i): b for k in range(2) for i, b in zip(small.batch(k).ids, small.batch(k).images, strict=True)}
    batch = large.batch(0)
    assert all(torch.equal(of_small[int(i)], image) for i, image in zip(batch.ids, batch.images, strict=True))


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_share_the_batch_of_one_process(stream: Stream, world_size: int) -> None:
    whole = stream.batch(4)
    parts = [replace(stream, rank=r, world_size=world_size).batch(4) for r in range(world_size)]
    assert torch.equal(torch.cat([p.images for p in parts]), whole.images)
    assert torch.equal(torch.cat([p.ids for p in parts]), whole.ids)


def test_crops_in_memory_change_nothing(stream: Stream) -> None:
    kept = stream.in_memory()
    assert kept.decoded is not None
    assert all(same(stream.batch(s), kept.batch(s)) for s in range(5))
    assert stream.in_memory(at_most=1000) is stream


def test_views_show_what_boxes_and_flips_say(stream: Stream) -> None:
    from fusiform.faces.views import render_view

    batch = stream.batch(1)
    for image, row, box, flip in zip(batch.images, batch.ids, batch.boxes, batch.flipped, strict=True):
        want = render_view(stream.faces.image(int(row)), tuple(box[0].tolist()), bool(flip[0]), 24)  # type: ignore[arg-type]
        assert torch.equal(image[0], want)


def test_flips_follow_their_probability(stream: Stream) -> None:
    for probability in (0.0, 1.0):
        always = replace(stream, data=replace(stream.data, flip=probability))
        assert {bool(f) for s in range(3) for f in always.batch(s).flipped.flatten()} == {bool(probability)}
    both = seen_again(stream, 19).batch(0).flipped.double().mean()
    assert 0.3 < float(both) < 0.7


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("decoded", [False, True])
def test_workers_change_nothing(stream: Stream, workers: int, decoded: bool) -> None:
    wanted = [stream.batch(s) for s in range(2, 9)]
    source = stream.in_memory() if decoded else stream
    got = list(batches(source, 2, 9, workers=workers))
    assert len(got) == 7
    assert all(same(a, b) for a, b in zip(wanted, got, strict=True))


@pytest.mark.parametrize("background", [False, True])
def test_a_thread_changes_nothing(stream: Stream, background: bool) -> None:
    got = list(batches(stream.in_memory(), 2, 9, background=background))
    assert all(same(stream.batch(s), b) for s, b in zip(range(2, 9), got, strict=True))


def test_a_consumer_may_stop_early(stream: Stream) -> None:
    for workers in (0, 1):
        source = batches(stream, 0, 10_000, workers=workers)
        assert same(next(source), stream.batch(0))
        source.close()  # type: ignore[attr-defined]


def test_what_cannot_be_trained_on_is_refused(stream: Stream, faces: FaceSet) -> None:
    with pytest.raises(ConfigError, match=r"23 faces to train on and a step takes 64.*--optim.faces-per-step 16"):
        replace(stream, faces_per_step=64)
    with pytest.raises(ConfigError, match=r"shared equally by 4.*--optim.faces-per-step 4"):
        replace(stream, world_size=4)
    with pytest.raises(ConfigError, match="0 faces per step"):
        replace(stream, faces_per_step=0)


def test_a_set_without_landmarks_gives_none(tmp_path: Path, stream: Stream) -> None:
    commit_chunk(tmp_path, 0, [StoredFace(f"f{i}", stream.faces.jpeg(i)) for i in range(6)], [])
    bare = finish_set(tmp_path, name="bare", crop=stream.faces.crop, made_by="a test", created="2026-01-01")
    with pytest.raises(DataError, match="no landmarks"):
        replace(stream, faces=bare, rows=bare.rows())
    assert replace(stream, faces=bare, rows=bare.rows(), landmarks=False).batch(0).landmarks is None
