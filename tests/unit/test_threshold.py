"""Thresholds on one's own pairs, against known truth; verification, galleries, and people who are forgotten."""

from __future__ import annotations

import math

import numpy as np
import pytest
from infer_fakes import SquareModels, encoder, photo, write

from fusiform import cli
from fusiform.errors import ConfigError, DataError
from fusiform.infer.analyzer import load
from fusiform.infer.gallery import Gallery
from fusiform.infer.pairs import ScoredPairs, scored_pairs
from fusiform.infer.threshold import OperatingPoint, clopper_pearson, operating_point, save_point, saved_point

ABOUT = {"features": "pooled", "encoder_sha256": "e", "finder": "f", "made": "2026-01-02"}


def drawn_pairs(people: int, photos: int = 2, seed: int = 0, spread: float = 0.0) -> ScoredPairs:
    """Impostors from a standard normal (plus a share of their people), genuine pairs three above."""
    rng = np.random.default_rng(seed)
    who = np.repeat(np.arange(people), photos)
    a, b = np.triu_indices(len(who), 1)
    own = rng.normal(0, spread, people)
    same = who[a] == who[b]
    score = rng.normal(0, 1, len(a)) + 3 * same + own[who[a]] + own[who[b]]
    return ScoredPairs(score.astype(np.float32), same, who[a], who[b], people, len(who), "drawn", {})


def test_the_exact_interval_is_the_binomial_one():
    from scipy.stats import beta

    for k, n in ((0, 100), (1, 1000), (7, 70_300), (70, 70_300), (500, 1000), (100, 100)):
        low, high = clopper_pearson(k, n)
        assert low == pytest.approx(0 if k == 0 else beta.ppf(0.025, k, n - k + 1), rel=1e-6, abs=1e-12)
        assert high == pytest.approx(1 if k == n else beta.ppf(0.975, k + 1, n - k), rel=1e-6)


def test_a_threshold_lets_the_stated_share_of_strangers_pass():
    point = operating_point(drawn_pairs(120), 1e-2, **ABOUT, resamples=200)
    assert point.threshold == pytest.approx(2.326, abs=0.05)  # the normal's 99th percentile
    assert point.far_measured <= 1e-2
    assert point.far_low < 1e-2 < point.far_high
    assert point.threshold_low < point.threshold < point.threshold_high
    assert point.far_held_out == pytest.approx(1e-2, abs=3e-3)
    assert point.supported
    assert point.people_pairs == 120 * 119 // 2
    assert point.frr <= 0.01
    assert point.reject <= point.threshold
    assert point.decide(point.threshold + 0.01) == "same"
    assert point.decide(point.threshold) != "same"
    assert point.decide(point.reject) == "different"
    middle = (point.threshold + point.reject) / 2
    assert point.reject < point.threshold
    assert point.decide(middle) == "cannot tell"


def test_people_who_resemble_everybody_make_the_interval_wider():
    plain = operating_point(drawn_pairs(60, seed=1), 1e-2, **ABOUT, resamples=300)
    lambs = operating_point(drawn_pairs(60, seed=1, spread=1.0), 1e-2, **ABOUT, resamples=300)
    assert lambs.far_high - lambs.far_low > 1.5 * (plain.far_high - plain.far_low)


def test_a_rate_that_the_pairs_cannot_support_is_refused_or_said():
    few = drawn_pairs(10)  # 180 impostor pairs
    with pytest.raises(DataError, match=r"cannot be measured with 180 pairs"):
        operating_point(few, 1e-3, **ABOUT)
    point = operating_point(few, 1e-2, **ABOUT, resamples=50)
    assert not point.supported
    assert "NOT SUPPORTED" in point.words()
    assert point.far_high > 1e-2
    with pytest.raises(ConfigError):
        operating_point(few, 0.0, **ABOUT)
    none = ScoredPairs(few.similarity, np.zeros(len(few.same), np.bool_), few.first, few.second, 10, 20, "x", {})
    with pytest.raises(DataError, match="no two photos of one person"):
        operating_point(none, 1e-1, **ABOUT)


def test_points_are_kept_by_rate_and_by_encoder(tmp_path):
    one = operating_point(drawn_pairs(30), 1e-1, **ABOUT, resamples=20)
    two = operating_point(drawn_pairs(30), 5e-2, **ABOUT, resamples=20)
    with pytest.raises(DataError, match="no threshold yet"):
        saved_point(tmp_path, "e", "pooled")
    save_point(tmp_path, one)
    save_point(tmp_path, two)
    assert isinstance(two, OperatingPoint)
    assert saved_point(tmp_path, "e", "pooled") == two
    assert saved_point(tmp_path, "e", "pooled", 0.1) == one
    with pytest.raises(DataError, match="no threshold for a rate"):
        saved_point(tmp_path, "e", "pooled", 1e-4)
    with pytest.raises(DataError, match="another encoder"):
        saved_point(tmp_path, "other", "pooled")


@pytest.fixture
def people(tmp_path):
    """Five people with three photos; within a person the pictures differ by little noise."""
    for who in range(5):
        base = photo((20, 15, 30), seed=100 + who)
        for number in range(3):
            rng = np.random.default_rng(10 * who + number)
            pixels = np.clip(base.astype(int) + rng.integers(-9, 10, base.shape), 0, 255).astype(np.uint8)
            pixels[0] = base[0]
            write(tmp_path / "people" / f"p{who}" / f"{number}.png", pixels)
    return tmp_path / "people"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr("fusiform.infer.analyzer.choose", lambda offline: SquareModels())
    return encoder().save(tmp_path / "model")


def test_pairs_of_a_folder_and_of_a_table_agree(people, folder):
    write(people / "p0" / "nobody.png", photo())
    copied = people / "p1" / "9.png"
    copied.write_bytes((people / "p1" / "0.png").read_bytes())
    analyzer = load(folder)
    pairs = scored_pairs(analyzer, people)
    assert (len(pairs.same), int(pairs.same.sum()), pairs.people) == (105, 15, 5)
    assert pairs.counts == {"files with the same bytes as another": 1, "photos without a face": 1}
    assert pairs.similarity[pairs.same].min() > np.median(pairs.similarity[~pairs.same])
    rows = ["a,b,same", "p0/0.png,p0/1.png,1", "p0/1.png,p0/2.png,1", "p0/2.png,p1/0.png,0"]
    (people / "pairs.csv").write_text("\n".join(rows))
    table = scored_pairs(analyzer, people / "pairs.csv")
    assert table.people == 2  # photos that pairs of one person link show one person
    assert table.same.tolist() == [True, True, False]
    a, b = (analyzer.embed(people / name) for name in ("p0/0.png", "p0/1.png"))
    assert table.similarity[0] == pytest.approx(float(a @ b), abs=1e-5)
    (people / "pairs.csv").write_text("a,b,same\np0/0.png,missing.png,1")
    with pytest.raises(DataError, match=r"missing\.png"):
        scored_pairs(analyzer, people / "pairs.csv")


def test_verify_and_identify_from_the_command_line(people, folder, tmp_path, capsys):
    assert cli.main(["threshold", str(people), "--model", str(folder), "--far", "0.2"]) == 0
    assert "true accepts" in capsys.readouterr().out
    one, two, other = (str(people / name) for name in ("p0/0.png", "p0/1.png", "p1/0.png"))
    assert cli.main(["verify", one, two, "--model", str(folder)]) == 0
    assert capsys.readouterr().out.startswith("same: similarity")
    assert cli.main(["verify", one, other, "--model", str(folder)]) == 0
    assert not capsys.readouterr().out.startswith("same")
    kept = tmp_path / "gallery"
    words = ["identify", one, "--model", str(folder), "--gallery"]
    assert cli.main([*words, str(people), "--save", str(kept)]) == 0
    assert "p0 (" in capsys.readouterr().out
    assert cli.main(["identify", "--gallery", str(kept), "--forget", "p0"]) == 0
    capsys.readouterr()
    assert cli.main([*words, str(kept)]) == 0
    assert "p0 (" not in capsys.readouterr().out
    assert cli.main(["identify", "--gallery", str(kept), "--forget", "p0"]) == 4


def drawn_gallery(count: int, width: int = 16) -> Gallery:
    rng = np.random.default_rng(3)
    vectors = rng.normal(size=(count, width)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    person = tuple(f"p{i // 4}" for i in range(count))
    return Gallery(vectors, person, tuple(f"{i}.png" for i in range(count)), "e", "pooled")


def test_a_gallery_names_people_once_and_forgets_them_for_good(tmp_path):
    gallery = drawn_gallery(40)
    found = gallery.search(gallery.vectors[9], top=3)
    assert (found[0].person, found[0].photo) == ("p2", "9.png")
    assert found[0].similarity == pytest.approx(1, abs=1e-5)
    assert len({match.person for match in found}) == 3
    gallery.save(tmp_path)
    secret = gallery.vectors[9].tobytes()
    assert secret in (tmp_path / "gallery.safetensors").read_bytes()
    Gallery.load(tmp_path).forget("p2").save(tmp_path)
    assert all(secret not in path.read_bytes() for path in tmp_path.iterdir())
    assert "p2" not in Gallery.load(tmp_path).people
    data = bytearray((tmp_path / "gallery.safetensors").read_bytes())
    data[-1] ^= 1
    (tmp_path / "gallery.safetensors").write_bytes(bytes(data))
    with pytest.raises(DataError, match="make the gallery again"):
        Gallery.load(tmp_path)


def test_the_index_of_a_large_gallery_finds_what_the_plain_search_finds(monkeypatch):
    pytest.importorskip("faiss", reason="the extra `search` is not installed")
    plain = drawn_gallery(2000)
    monkeypatch.setattr("fusiform.infer.gallery.LARGE", 1000)
    fast = plain.indexed()
    assert fast._index is not None
    for row in range(0, 2000, 191):
        one, two = plain.search(plain.vectors[row]), fast.search(plain.vectors[row])
        assert [m.person for m in one] == [m.person for m in two]
        assert math.isclose(one[0].similarity, two[0].similarity, abs_tol=1e-5)


def test_a_threshold_of_real_people_holds_for_their_pairs(data_dir, weights_dir, tmp_path, monkeypatch):
    """Six people of ORL with four photos each: the rate is kept, and too small a rate is refused with what would do."""
    monkeypatch.setenv("FUSIFORM_WEIGHTS", str(weights_dir))
    for who in range(3, 9):
        for number in range(1, 5):
            source = data_dir / "real" / "orl" / f"s{who}_{number:02}.png"
            (tmp_path / "p" / f"s{who}").mkdir(parents=True, exist_ok=True)
            (tmp_path / "p" / f"s{who}" / source.name).write_bytes(source.read_bytes())
    pairs = scored_pairs(load(encoder().save(tmp_path / "e"), offline=True), tmp_path / "p")
    assert (int(pairs.same.sum()), int((~pairs.same).sum()), pairs.people) == (36, 240, 6)
    point = operating_point(pairs, 0.05, **ABOUT, resamples=100)
    assert (pairs.similarity[~pairs.same] > point.threshold).mean() == pytest.approx(0.05)
    assert point.supported
    assert point.tar > 0.05  # even untrained features know more than chance
    with pytest.raises(DataError, match="add people"):
        operating_point(pairs, 1e-4, **ABOUT)
