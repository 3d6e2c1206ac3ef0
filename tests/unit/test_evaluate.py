"""evaluate(): rows, folds, leaks, pairing, caching; frozen heads are deterministic, fine-tuning follows its seed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from labelled_faces import CROP, SHAPE, Brightness, SamePerson, untrained

from fusiform import embedding
from fusiform.config import ViTConfig
from fusiform.embedding import FeatureCache, embed
from fusiform.encoder import Encoder
from fusiform.errors import ConfigError, DataError
from fusiform.evaluate import compare_to, evaluate
from fusiform.heads import best_index, split_folds
from fusiform.measurement import Crop
from fusiform.protocols import KNN, Cosine, FineTune, LinearProbe, settings
from fusiform.results import ResultRow, append_rows, read_rows

DATE = "2026-01-02"
FOLDS = ("fold-0", "fold-1", "fold-2")
QUICK = FineTune(epochs=25, faces_per_step=16, lr_per_256=0.1, layer_decay=0.9, drop_path=0.0)


@pytest.mark.parametrize("protocol", [LinearProbe(), KNN(k=3), QUICK], ids=lambda p: p.name)
@pytest.mark.parametrize("splits", [("train", "val", "test"), FOLDS], ids=["splits", "folds"])
def test_every_protocol_learns_and_gives_rows(protocol: LinearProbe | KNN | FineTune, splits: tuple[str, ...]) -> None:
    task = Brightness(splits)
    found = evaluate(untrained(), task, protocol, date=DATE, resamples=100, cache=FeatureCache())
    row = found.rows[0]
    assert [r.metric for r in found.rows] == ["mae", "bias"]
    assert row.value is not None
    assert row.value < 0.15  # answering the mean gives about .25
    assert row.low < row.value < row.high
    assert not row.higher_is_better
    assert row.protocol["name"] == protocol.name
    assert row.split == ("test" if "test" in splits else "folds")
    assert row.n == len(found.prediction) == len(found.faces)
    assert row.n == (32 if "test" in splits else 96)
    assert row.people == (8 if "test" in splits else 24)
    assert row.spec.input_size == SHAPE.image_size
    assert row.encoder_sha256 == untrained().sha256


def test_each_person_is_tested_once_by_a_head_that_never_saw_them() -> None:
    faces = Brightness(FOLDS).read(16)
    folds = split_folds(faces)
    np.testing.assert_array_equal(np.sort(np.concatenate([f.test for f in folds])), np.arange(len(faces)))
    for fold in folds:
        people = [set(faces.person[rows]) for rows in (fold.fit, fold.choose, fold.test)]
        assert people[0].isdisjoint(people[1])
        assert people[2].isdisjoint(people[0] | people[1])
        assert set(fold.refit) == set(fold.fit) | set(fold.choose)
        assert people[1]


def test_out_of_fold_predictions_do_not_see_their_own_label() -> None:
    faces = Brightness(FOLDS).read(16)
    before = evaluate(untrained(), Brightness(FOLDS), LinearProbe((0.1,)), date=DATE, faces=faces, resamples=2)
    target = faces.target.copy()
    target[faces.person == "p04"] = 100.0
    after = evaluate(
        untrained(), Brightness(FOLDS), LinearProbe((0.1,)), date=DATE, faces=replace(faces, target=target), resamples=2
    )
    same_fold = faces.split == faces.split[faces.person == "p04"][0]
    np.testing.assert_array_equal(before.prediction[same_fold], after.prediction[same_fold])
    assert (before.prediction[~same_fold] != after.prediction[~same_fold]).any()


@pytest.mark.parametrize("splits", [("train", "val", "test"), FOLDS, ("val", "train", "test")])
def test_a_person_on_two_sides_stops_it_before_anything_is_fitted(splits: tuple[str, ...]) -> None:
    with pytest.raises(DataError, match="p00"):
        evaluate(untrained(), Brightness(splits, leak=True), LinearProbe(), date=DATE)


def test_a_set_without_val_chooses_on_people_held_out_of_train() -> None:
    [fold] = split_folds(Brightness(("train", "train", "test")).read(16))
    faces = Brightness(("train", "train", "test")).read(16)
    assert set(faces.person[fold.fit]).isdisjoint(faces.person[fold.choose])
    np.testing.assert_array_equal(fold.refit, np.flatnonzero(faces.split == "train"))


def test_copies_of_faces_train_but_are_never_scored_or_chosen_on() -> None:
    faces = Brightness(FOLDS).read(16)
    copy = np.arange(len(faces)) % 2 == 1
    faces = replace(faces, extra={"train_only": copy})
    for fold in split_folds(faces):
        assert copy[fold.fit].any()
        assert not copy[fold.test].any()
        assert not copy[fold.choose].any()


def test_faces_cropped_otherwise_are_refused() -> None:
    with pytest.raises(DataError, match="arcface"):
        evaluate(untrained(crop=Crop("arcface", 16, "x")), Brightness(), LinearProbe(), date=DATE)


def test_frozen_protocols_do_not_depend_on_the_seed_or_the_cache() -> None:
    for protocol in (LinearProbe(), KNN()):
        cache = FeatureCache()
        runs = [evaluate(untrained(), Brightness(), protocol, date=DATE, seed=s, cache=cache) for s in (0, 1, 1)]
        runs.append(evaluate(untrained(), Brightness(), protocol, date=DATE, cache=FeatureCache(max_bytes=0)))
        for run in runs[1:]:
            np.testing.assert_array_equal(run.prediction, runs[0].prediction)
            assert [(r.value, r.low, r.high) for r in run.rows] == [(r.value, r.low, r.high) for r in runs[0].rows]


def test_fine_tuning_follows_its_seed_and_leaves_the_encoder_alone() -> None:
    import torch

    encoder = untrained()
    before = encoder.sha256
    torch.manual_seed(1)
    one = evaluate(encoder, Brightness(), QUICK, date=DATE, resamples=2)
    torch.manual_seed(2)
    same = evaluate(encoder, Brightness(), QUICK, date=DATE, resamples=2)
    other = evaluate(encoder, Brightness(), QUICK, date=DATE, seed=1, resamples=2)
    np.testing.assert_array_equal(one.prediction, same.prediction)
    assert (one.prediction != other.prediction).any()
    assert encoder.sha256 == before
    assert not encoder.vit.training


def test_embeddings_are_unit_length_and_scored_without_a_head() -> None:
    found = evaluate(untrained(), SamePerson(), Cosine(), date=DATE, resamples=50)
    assert found.rows[0].metric == "gap"
    assert found.rows[0].spec.threshold == "none"
    assert found.prediction.shape == (48, SHAPE.width)
    assert found.rows[0].low is not None


def test_protocols_that_do_not_suit_the_task_say_so() -> None:
    with pytest.raises(ConfigError, match="learns nothing"):
        evaluate(untrained(), SamePerson(), LinearProbe(), date=DATE)
    with pytest.raises(ConfigError, match="cosine"):
        evaluate(untrained(), Brightness(), Cosine(), date=DATE)
    with pytest.raises(ConfigError, match="whole faces"):
        evaluate(untrained(), Brightness(), LinearProbe(features="patches"), date=DATE)
    with pytest.raises(ConfigError, match="no layer 2"):
        evaluate(untrained(), Brightness(), LinearProbe(layer=2), date=DATE)


def test_a_difference_is_paired_and_keeps_the_measurement() -> None:
    one = evaluate(untrained(), Brightness(), LinearProbe(), date=DATE)
    other = evaluate(replace(untrained(1), name="other"), Brightness(), LinearProbe(), date=DATE)
    row = compare_to(one, other)
    assert row.metric == "difference:mae"
    assert row.value == pytest.approx(other.rows[0].value - one.rows[0].value)
    assert row.reference == "untrained"
    assert row.verdict in ("better", "worse", "cannot tell")
    assert row.measurement_digest == one.rows[0].measurement_digest
    itself = compare_to(one, one)
    assert (itself.value, itself.low, itself.high, itself.verdict) == (0, 0, 0, "cannot tell")


def test_only_equals_are_subtracted() -> None:
    one = evaluate(untrained(), Brightness(), LinearProbe(), date=DATE, resamples=10)
    with pytest.raises(DataError, match="subtracted"):
        compare_to(one, evaluate(untrained(), Brightness(people=18), LinearProbe(), date=DATE, resamples=10))
    jittered = evaluate(untrained(), Brightness(notes={"jitter": "5 %"}), LinearProbe(), date=DATE, resamples=10)
    with pytest.raises(DataError, match="differently"):
        compare_to(one, jittered)
    with pytest.raises(ConfigError, match="mae, bias"):
        compare_to(one, one, "accuracy")


def test_a_choice_at_the_edge_of_the_grid_is_said() -> None:
    found = evaluate(untrained(), Brightness(), LinearProbe((1e4, 1e5)), date=DATE, resamples=2)
    assert "edge" in found.rows[0].note
    assert "strength 1e+04" in found.rows[0].note


def test_the_best_setting_is_the_strongest_of_equals_and_never_an_undefined_one() -> None:
    assert best_index([0.1, 0.5, 0.5, 0.2], higher=True) == 2
    assert best_index([0.1, 0.5, 0.1, 0.2], higher=False) == 2
    assert best_index([float("nan"), 0.5, float("nan")], higher=True) == 1


def test_features_are_computed_once_per_encoder_and_set(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, images = untrained(), Brightness().read(16).images
    calls = []
    forward = type(encoder.vit).forward
    monkeypatch.setattr(type(encoder.vit), "forward", lambda self, x, *a: calls.append(len(x)) or forward(self, x, *a))
    cache = FeatureCache()
    pooled = embed(encoder, images, cache=cache)
    patches = embed(encoder, images.copy(), features="patches", cache=cache)
    concat = embed(encoder, images, features="concat", cache=cache)
    assert calls == [len(images)]
    np.testing.assert_allclose(pooled, patches.mean(1), atol=1e-6)
    np.testing.assert_array_equal(concat, patches.reshape(len(images), -1))
    embed(encoder, images[1:], cache=cache)
    embed(untrained(1), images, cache=cache)
    assert len(calls) == 3
    small = FeatureCache(max_bytes=images.shape[0] * 16 * 4)  # room for pooled features only
    np.testing.assert_allclose(embed(encoder, images, cache=small), pooled, atol=1e-6)
    embed(encoder, images, cache=small)
    assert len(calls) == 4


def test_features_do_not_depend_on_the_batch_or_on_training_mode() -> None:
    encoder, images = untrained(), Brightness().read(16).images
    reference = embed(encoder, images, features="concat")
    np.testing.assert_allclose(embed(encoder, images, features="concat", batch=7), reference, atol=1e-5)
    encoder.vit.train()
    np.testing.assert_allclose(embed(encoder, images, features="concat"), reference, atol=1e-6)
    assert encoder.vit.training


def test_inner_layers_are_normalised_and_counted_from_either_end() -> None:
    encoder, images = untrained(), Brightness().read(16).images
    last = embed(encoder, images, features="patches", layer=-1)
    np.testing.assert_array_equal(last, embed(encoder, images, features="patches", layer=1))
    np.testing.assert_allclose(last.std(-1), 1, atol=1e-3)
    # the final norm of an untrained encoder has weight 1 and bias 0, so here the two are one
    np.testing.assert_allclose(last, embed(encoder, images, features="patches"), atol=1e-4)
    assert embedding.block_index(None, 2) == -1


def test_pictures_of_another_size_are_refused() -> None:
    bigger = Encoder.untrained(ViTConfig(image_size=32, patch_size=8, width=16, depth=2, heads=2), CROP)
    with pytest.raises(DataError, match="32, 32, 3"):
        embed(bigger, Brightness().read(16).images)


def test_rows_survive_the_file_and_strange_lines_do_not(tmp_path: Path) -> None:
    found = evaluate(untrained(), Brightness(), LinearProbe(), date=DATE, resamples=20)
    path = tmp_path / "deep" / "results.jsonl"
    append_rows(path, found.rows)
    append_rows(path, [compare_to(found, found)])
    assert read_rows(path) == [*found.rows, compare_to(found, found)]
    with path.open("a") as file:
        file.write('{"metric": "mae"}\n')
    with pytest.raises(DataError, match=r"results.jsonl:4"):
        read_rows(path)
    with pytest.raises(DataError, match="wrong"):
        ResultRow.from_line('{"wrong": 1}')


def test_a_number_that_is_not_finite_is_none_in_a_row() -> None:
    row = evaluate(untrained(), Brightness(), LinearProbe(), date=DATE, resamples=0).rows[0]
    assert row.low is None
    assert replace(row, value=float("nan")).value is None


def test_protocol_settings_are_plain_and_complete() -> None:
    assert settings(KNN(k=3))["k"] == 3
    assert settings(LinearProbe())["strengths"][0] == pytest.approx(1e-6)
    for wrong in (
        lambda: KNN(k=0),
        lambda: LinearProbe(()),
        lambda: LinearProbe((1.0, 0.1)),
        lambda: FineTune(epochs=0),
    ):
        with pytest.raises(ConfigError):
            wrong()


def test_class_tokens_are_the_first_tokens_and_come_from_the_same_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    encoder, images = untrained(), Brightness().read(16).images
    with torch.inference_mode():
        tokens = encoder.vit(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()
    calls = []
    forward = type(encoder.vit).forward
    monkeypatch.setattr(type(encoder.vit), "forward", lambda self, x, *a: calls.append(len(x)) or forward(self, x, *a))
    for cache in (FeatureCache(), FeatureCache(max_bytes=images.shape[0] * 16 * 4 * 2)):  # all tokens; two means
        calls.clear()
        pooled = embed(encoder, images, cache=cache)
        np.testing.assert_allclose(embed(encoder, images, features="cls", cache=cache), tokens[:, 0], atol=1e-6)
        both = embed(encoder, images, features="cls+pooled", cache=cache)
        np.testing.assert_allclose(both, np.concatenate([tokens[:, 0], pooled], 1), atol=1e-6)
        assert calls == [len(images)]
    np.testing.assert_array_equal(embed(encoder, images, features="cls+pooled"), both)
    everything = embed(encoder, images, features="cls+concat")
    np.testing.assert_allclose(everything, tokens.reshape(len(images), -1), atol=1e-6)


@pytest.mark.parametrize("protocol", [LinearProbe(), KNN(k=3), QUICK, Cosine()], ids=lambda p: p.name)
def test_protocols_read_what_the_encoder_was_trained_for_unless_they_say_otherwise(protocol: LinearProbe) -> None:
    task = SamePerson() if isinstance(protocol, Cosine) else Brightness()

    def row(pooling: str | None, features: str | None = None) -> ResultRow:
        encoder = replace(untrained(), pooling=pooling)
        return evaluate(encoder, task, replace(protocol, features=features), date=DATE, resamples=0).rows[0]

    assert row(None).protocol["features"] == "pooled"
    by_class = row("cls")
    assert by_class.protocol["features"] == "cls"
    assert by_class.value == row(None, "cls").value != row(None).value
    assert row("cls", "pooled").value == row(None).value
    assert row("cls+pooled").value not in (by_class.value, row(None).value)


def test_an_encoders_pooling_is_in_its_card(tmp_path: Path) -> None:
    encoder = Encoder.untrained(SHAPE, CROP, pooling="cls")
    assert Encoder.load(encoder.save(tmp_path / "a")).pooling == "cls"
    assert Encoder.load(untrained().save(tmp_path / "b")).pooling is None


def test_tasks_of_patches_read_patches_whatever_the_encoder_says() -> None:
    from fusiform.protocols import read_out

    assert read_out(LinearProbe(), "cls", "patches") == "patches"
    assert read_out(LinearProbe(), None, "concat") == read_out(LinearProbe(), "pooled", "concat") == "concat"
    assert read_out(LinearProbe(), "cls", "concat") == "cls+concat"
    assert read_out(KNN(), "cls", "patches") == "cls"


@pytest.mark.parametrize("features", ["pooled", "concat", "cls", "cls+pooled", "cls+concat"])
def test_fine_tuning_takes_every_form_of_the_tokens(features: str) -> None:
    quick = replace(QUICK, epochs=1, features=features)
    row = evaluate(untrained(), Brightness(), quick, date=DATE, resamples=0).rows[0]
    assert row.protocol["features"] == features
    assert row.value is not None
