"""Which slides a server has: those of a folder as they come, change and go, and what cannot be served."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from PIL import Image

from inrwsi import CorruptFile, UsageError
from inrwsi.serve import app
from inrwsi.serve.options import ServeOptions
from tests.fake_octaves import FakeFile, fake_file
from tests.served import jpeg, served

pytestmark = pytest.mark.usefixtures("fake")


def test_slides_that_cannot_be_served(noise: FakeFile, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nowhere.cinr: no such file or folder; give \.cinr files"):
        app([tmp_path / "nowhere.cinr"])
    with pytest.raises(UsageError, match=r"there is no \.cinr file to serve"):
        app([tmp_path])
    with pytest.raises(UsageError, match="nothing: there is no"):
        app([])
    cut = tmp_path / "cut.cinr"
    cut.write_bytes(noise.path.read_bytes()[:-1])
    with pytest.raises(CorruptFile, match="truncated"):
        app([cut])
    good = fake_file(tmp_path / "good.cinr", (40, 30))
    library = app([tmp_path, good.path]).state.library
    assert [facts.id for facts in library.facts()] == ["good"]
    assert len(library.skipped) == 1
    assert "cut.cinr: damaged (truncated)" in library.skipped[0]
    (tmp_path / "other").mkdir()
    with pytest.raises(UsageError, match=r"another slide is called good too, .*rename one of them"):
        app([good.path, fake_file(tmp_path / "other" / "good.cinr", (40, 30)).path])
    with pytest.raises(UsageError, match="decodes is 0; it should be from 1 to 1024"):
        ServeOptions(decodes=0)


def test_names_as_folders_have_them(tmp_path: Path) -> None:
    """One of another encoding costs itself alone, and a suffix may be in capitals."""
    slide = fake_file(tmp_path / "LOUD.CINR", (40, 30))
    (tmp_path / os.fsdecode(b"Gewebe_\xe4.cinr")).write_bytes(slide.path.read_bytes())
    with served(app([tmp_path])) as server:
        assert [entry["id"] for entry in json.loads(server.get("/slides.json").body)] == ["LOUD"]
        assert server.get("/").status == 200
        assert server.get("/dz/LOUD.dzi").status == 200
        (skipped,) = server.state.library.skipped
    assert "Gewebe_\\udce4.cinr': its name is not of UTF-8" in skipped
    skipped.encode()


def test_what_is_put_into_a_folder_later_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inrwsi.serve.library.LOOK_AGAIN_S", 0.0)
    fake_file(tmp_path / "a.cinr", (40, 30))
    with served(app([tmp_path])) as server:
        library = server.state.library

        def listed() -> list[str]:
            return [entry["id"] for entry in json.loads(server.get("/slides.json").body)]

        assert (listed(), library.cinr(library.entry("a")).decoder.container.file_bytes > 0) == (["a"], True)
        (tmp_path / "b.cinr").write_bytes((tmp_path / "a.cinr").read_bytes()[:-9])  # as much as has been copied
        assert (listed(), server.get("/view/b").status) == (["a"], 404)
        assert "b.cinr: damaged (truncated)" in library.skipped[0]
        b = fake_file(tmp_path / "b.cinr", (300, 200))
        assert server.get("/dz/b_files/9/1_0.jpeg").body == jpeg(b.octaves[0][:, 256:])  # by its address at once
        assert (listed(), library.skipped) == (["a", "b"], [])
        Image.fromarray(b.octaves[0]).save(tmp_path / "b.png", compress_level=1)
        assert [facts["source"] for facts in json.loads(server.get("/slides.json").body)] == [False, True]
        fake_file(tmp_path / "b.cinr", (310, 210))
        facts = json.loads(server.get("/slides.json").body)[1]
        assert (facts["width"], facts["source"]) == (310, False)  # what lies beside it is no longer its source
        (tmp_path / "a.cinr").unlink()
        assert (listed(), server.get("/slides/a.json").status) == (["b"], 404)
        (tmp_path / "b.cinr").unlink()
        assert listed() == []
        assert b"There are no slides here." in server.get("/").body


def test_a_folder_is_not_looked_at_for_every_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inrwsi.serve.library.LOOK_AGAIN_S", 1e9)
    (tmp_path / "folder").mkdir()
    one = fake_file(tmp_path / "one.cinr", (40, 30)).path
    fake_file(tmp_path / "folder" / "two.cinr", (40, 30))
    library = app([one, tmp_path / "folder"]).state.library
    fake_file(tmp_path / "folder" / "three.cinr", (40, 30))
    fake_file(tmp_path / "beside one.cinr", (40, 30))
    with pytest.raises(UsageError, match="there is no slide 'three'"):
        library.entry("three")
    assert [facts.id for facts in library.facts()] == ["one", "two"]
    monkeypatch.setattr("inrwsi.serve.library.LOOK_AGAIN_S", 0.0)
    one.unlink()  # it was named: that it went away is said where it is asked for
    fake_file(tmp_path / "folder" / "one.cinr", (50, 30))
    assert [(facts.id, facts.width) for facts in library.facts()] == [("one", 40), ("three", 40), ("two", 40)]
    assert "another slide is called one too" in library.skipped[0]


def test_how_much_is_kept_decoded_is_shared_by_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inrwsi.serve.library.LOOK_AGAIN_S", 0.0)
    caches: list[int] = []
    monkeypatch.setattr(
        "inrwsi.serve.slides.OpenCinr", lambda path, device, decoded_bytes: caches.append(decoded_bytes)
    )
    fake_file(tmp_path / "0.cinr", (40, 30))
    library = app([tmp_path], options=ServeOptions(open_slides=2, decoded_bytes=1000)).state.library
    for k in (0, 1, 2):
        fake_file(tmp_path / f"{k}.cinr", (40 + k, 30))
        library.facts()
        library.cinr(library.entry("0"))
    assert caches == [1000, 500]  # opened anew when a second one came; a third has to wait for its turn


def test_a_replaced_file_is_read_anew(tmp_path: Path) -> None:
    file = fake_file(tmp_path / "s.cinr", (300, 200))
    with served(app([tmp_path])) as server:
        old = server.get("/dz/s_files/9/1_0.jpeg")
        fresh = fake_file(tmp_path / "new.part", (310, 210))
        os.replace(fresh.path, file.path)
        new = server.get("/dz/s_files/9/1_0.jpeg", {"If-None-Match": old.headers["etag"]})
        assert new.body == jpeg(fresh.octaves[0][:210, 256:])
        assert json.loads(server.get("/slides/s.json").body)["width"] == 310
        file.path.write_bytes(b"gone wrong")
        assert server.get("/dz/s_files/9/1_0.jpeg").status == 500
        file.path.unlink()
        answer = server.get("/dz/s_files/9/1_0.jpeg")
        assert answer.status == 404
        assert str(tmp_path).encode() not in answer.body


def test_few_slides_are_held_open(tmp_path: Path) -> None:
    files = [fake_file(tmp_path / f"{k}.cinr", (40 + k, 30)) for k in range(4)]
    application = app([tmp_path], options=ServeOptions(open_slides=2, tile_bytes=0))
    with served(application) as server:
        for file in files * 2:
            want = jpeg(file.octaves[0])
            assert server.get(f"/dz/{file.path.stem}_files/6/0_0.jpeg").body == want
        assert len(application.state.library._cinr._open) == 2
