"""Photos in an object store are curated as those on a disk are: the same faces, every object accounted for."""

from __future__ import annotations

from pathlib import Path

import pytest
from curate_fakes import FakeModels, content, ledger_rows, make, outcomes, picture
from small_s3 import SmallS3, small_s3

pytest.importorskip("s3fs")


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> SmallS3:  # type: ignore[misc]
    """Three pages of objects; the user's settings name the endpoint, as they would for MinIO or Ceph."""
    objects = {f"photos/p{i % 3}/{i:02d} ä+&.png": picture(i % 3, seed=i) for i in range(16)}
    objects |= {"photos/broken.png": picture(1, seed=99)[:300], "photos/empty.png": b"", "photos/text": b"no picture"}
    objects |= {"photos/secret.png": picture(1, seed=50), "other/not-asked.png": picture(1, seed=77)}
    monkeypatch.setenv("FSSPEC_S3_ANON", "true")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "HTTP_PROXY", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with small_s3("faces", objects) as server:
        monkeypatch.setenv("FSSPEC_S3_ENDPOINT_URL", server.address)
        import fsspec.config

        fsspec.config.set_conf_env(fsspec.config.conf)
        yield server  # type: ignore[misc]
        fsspec.config.conf.pop("s3", None)


def test_a_bucket_is_curated_as_a_folder_is(store: SmallS3, tmp_path: Path) -> None:
    store.broken.add("photos/secret.png")
    make("s3://faces/photos", tmp_path / "far", person_from="folder")
    disk = tmp_path / "photos"
    for key, data in store.objects.items():
        if key.startswith("photos/") and key != "photos/secret.png":
            path = tmp_path / key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    make(disk, tmp_path / "near", person_from="folder")
    jpegs = [{key: jpeg for key, (jpeg, _) in content(tmp_path / n).items()} for n in ("far", "near")]
    assert jpegs[0] == jpegs[1]  # the labels of those from afar name their address too
    far, near = outcomes(tmp_path / "far"), outcomes(tmp_path / "near")
    assert far.pop("secret.png") == "unreachable"
    assert far == near
    assert len(near) == 19
    people = {r["key"]: r["subject"] for r in ledger_rows(tmp_path / "far") if r["key"]}
    assert people == {r["key"]: r["subject"] for r in ledger_rows(tmp_path / "near") if r["key"]}
    assert not any("not-asked" in asked for asked in store.asked)


def test_a_second_run_reads_only_what_is_new(store: SmallS3, tmp_path: Path) -> None:
    make("s3://faces/photos", tmp_path / "set")
    before = content(tmp_path / "set")
    store.asked.clear()
    make("s3://faces/photos", tmp_path / "set", FakeModels(loads=False))
    assert not [asked for asked in store.asked if ".png" in asked]
    store.objects["photos/new.png"] = picture(1, seed=123)
    make("s3://faces/photos", tmp_path / "set")
    assert {a.rsplit("/", 1)[1] for a in store.asked if a.startswith("GET") and ".png" in a} == {"new.png"}
    after = content(tmp_path / "set")
    assert len(after) == len(before) + 1
    assert before.items() <= after.items()


def test_a_bucket_that_is_not_there_is_said(store: SmallS3, tmp_path: Path) -> None:
    make("s3://nowhere/photos", tmp_path / "set")
    (row,) = ledger_rows(tmp_path / "set")
    assert row["outcome"] in ("unreachable", "empty")
