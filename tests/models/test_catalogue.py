"""The catalogue: complete entries, one download, checked digests, plain errors; only the last test asks."""

from __future__ import annotations

import hashlib
import multiprocessing
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from graphopt.errors import GraphoptError
from graphopt.events import Event
from graphopt.models import catalogue, wheels
from graphopt.models.cache import cache_folder, place

CONTENT = b"a model" * 100
OTHER = b"its neighbour"
METADATA = "Metadata-Version: 2.1\nName: graphopt-toy\nVersion: 1.0\n"


def toy(name: str, content: bytes) -> catalogue.Entry:
    return replace(
        catalogue.entry("ppocr_cls_v2"),
        id=name,
        package="graphopt-toy",
        version="1.0",
        member=f"graphopt_toy/{name}.onnx",
        sha256=hashlib.sha256(content).hexdigest(),
        size=len(content),
    )


def write_wheel(folder: Path, **members: bytes) -> Path:
    wheel = folder / "graphopt_toy-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, content in members.items():
            archive.writestr(f"graphopt_toy/{name}.onnx", content)
        archive.writestr("graphopt_toy-1.0.dist-info/METADATA", METADATA)
        archive.writestr("graphopt_toy-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
    return wheel


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip takes for its only index, and a catalogue of two models in one wheel there."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    for variable in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    entries = {"toy_model": toy("toy_model", CONTENT), "toy_other": toy("toy_other", OTHER)}
    monkeypatch.setattr(catalogue, "_entries", lambda: entries)
    return folder


def refuse_to_download(requirement: str) -> None:
    raise AssertionError(f"pip was asked for {requirement}")


def test_the_catalogue_has_the_eight_models_with_all_their_facts() -> None:
    wanted = {
        "ppocr_cls_v2",
        "ppocrv4_det",
        "ppocrv4_rec",
        "layout_cdla",
        "paraphrase_minilm_l3",
        "silero_vad_16k_op15",
        "basic_pitch",
        "magika_v3_3",
    }
    assert {entry.id for entry in catalogue.models()} == wanted
    for entry in catalogue.models():
        assert len(entry.sha256) == 64
        assert entry.size > 100_000
        assert entry.member.endswith(".onnx")
        assert entry.licence in {"Apache-2.0", "MIT"}
        assert entry.opset["ai.onnx"] >= 11
        assert all(given.name and given.dtype for given in entry.inputs)
        assert entry.outputs


def test_a_wrong_name_gets_a_suggestion() -> None:
    with pytest.raises(GraphoptError) as caught:
        catalogue.fetch("silero_vad")
    assert caught.value.hint == "did you mean silero_vad_16k_op15?"
    assert caught.value.exit_code == 2


def test_a_name_like_no_other_gets_the_list() -> None:
    with pytest.raises(GraphoptError, match="no model called 'zzz'") as caught:
        catalogue.entry("zzz")
    assert "magika_v3_3" in caught.value.hint


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GRAPHOPT_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("GRAPHOPT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setattr("sys.platform", "linux")
    assert cache_folder() == tmp_path / "xdg" / "graphopt"


def test_a_fetched_model_is_whole_and_needs_no_second_download(
    shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_wheel(shelf, toy_model=CONTENT, toy_other=OTHER)
    heard: list[Event] = []
    path = catalogue.fetch("toy_model", tmp_path / "cache", events=heard.append)
    assert path.read_bytes() == CONTENT
    assert [event.data["done"] for event in heard] == [False, True]
    monkeypatch.setattr(catalogue, "download", refuse_to_download)
    assert catalogue.fetch("toy_model", tmp_path / "cache") == path
    assert catalogue.fetch("toy_other", tmp_path / "cache", offline=True).read_bytes() == OTHER
    assert sorted(file.name for file in path.parent.iterdir()) == ["toy_model.onnx", "toy_other.onnx"]


@pytest.mark.parametrize("damage", [b"short", b"b" + CONTENT[1:]])
def test_a_damaged_file_is_fetched_again(shelf: Path, tmp_path: Path, damage: bytes) -> None:
    write_wheel(shelf, toy_model=CONTENT, toy_other=OTHER)
    path = catalogue.path_of("toy_model", tmp_path)
    place(path, damage)
    heard: list[Event] = []
    assert catalogue.fetch("toy_model", tmp_path, events=heard.append).read_bytes() == CONTENT
    assert heard[0].kind == "warning"
    assert "damaged" in heard[0].data["text"]


def test_offline_work_without_the_model_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(GraphoptError, match="not in the cache") as caught:
        catalogue.fetch("magika_v3_3", tmp_path, offline=True)
    assert "graphopt models fetch magika_v3_3" in caught.value.hint


def test_another_content_than_the_catalogue_says_is_refused(shelf: Path, tmp_path: Path) -> None:
    write_wheel(shelf, toy_model=b"b" + CONTENT[1:], toy_other=OTHER)
    with pytest.raises(GraphoptError, match="sha256") as caught:
        catalogue.fetch("toy_model", tmp_path)
    assert "graphopt_toy/toy_model.onnx" in caught.value.where
    assert not catalogue.path_of("toy_model", tmp_path).exists()


def test_a_member_that_unpacks_to_more_than_expected_is_refused(tmp_path: Path) -> None:
    wheel = write_wheel(tmp_path, toy_model=b"\0" * 50_000_000)
    entry = toy("toy_model", CONTENT)
    with pytest.raises(GraphoptError, match="sha256"):
        wheels.member_of(wheel, entry.member, entry.size, entry.sha256)


def test_a_wheel_without_the_member_and_a_broken_wheel_are_refused(tmp_path: Path) -> None:
    with pytest.raises(GraphoptError, match="no such member"):
        wheels.member_of(write_wheel(tmp_path, toy_other=OTHER), "graphopt_toy/toy_model.onnx", 1, "0" * 64)
    broken = tmp_path / "broken.whl"
    broken.write_bytes(b"no zip file")
    with pytest.raises(GraphoptError, match="cannot be unpacked"):
        wheels.member_of(broken, "x", 1, "0" * 64)


def test_a_package_that_the_index_lacks_is_named(shelf: Path, tmp_path: Path) -> None:
    with pytest.raises(GraphoptError, match="no such wheel") as caught:
        catalogue.fetch("toy_model", tmp_path)
    assert "graphopt-toy==1.0" in caught.value.where


def test_an_index_out_of_reach_is_called_that(shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    with pytest.raises(GraphoptError, match="out of reach"):
        catalogue.fetch("toy_model", tmp_path)
    assert not catalogue.path_of("toy_model", tmp_path).exists()


def test_a_cache_that_cannot_be_written_is_an_error_with_a_way_out(shelf: Path, tmp_path: Path) -> None:
    write_wheel(shelf, toy_model=CONTENT, toy_other=OTHER)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(GraphoptError, match="cannot write to the cache") as caught:
        catalogue.fetch("toy_model", tmp_path / "file")
    assert "GRAPHOPT_CACHE" in caught.value.hint


def _place_often(path: Path) -> None:
    for _ in range(50):
        place(path, CONTENT)


def test_many_writers_leave_one_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "models" / "toy.onnx"
    workers = [multiprocessing.Process(target=_place_often, args=(path,)) for _ in range(3)]
    for worker in workers:
        worker.start()
    while any(worker.is_alive() for worker in workers):
        if path.exists():
            assert path.read_bytes() == CONTENT
    for worker in workers:
        worker.join()
    assert [file.name for file in path.parent.iterdir()] == ["toy.onnx"]


def test_a_real_model_comes_from_the_index(tmp_path: Path) -> None:
    try:
        path = catalogue.fetch("basic_pitch", tmp_path)
    except GraphoptError as error:
        if "out of reach" not in error.what:
            raise
        pytest.skip(error.what)
    assert path.stat().st_size == catalogue.entry("basic_pitch").size
