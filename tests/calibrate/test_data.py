"""Calibration data: every form it comes in, and every way it can be wrong."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper, parser

from graphopt.calibrate import CalibrationData
from graphopt.errors import GraphoptError
from graphopt.execute import Session, verify

RNG = np.random.default_rng(0)


def model(text: str) -> ir.Model:
    return ir.from_proto(parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> {text}'))


MODEL = model("g (float[N, 3] x, int64[N] k) => (float[N, 3] y) { y = Relu(x) }")


def sample(value: float = 1.0, count: int = 1) -> dict[str, np.ndarray]:
    return {"x": np.full((count, 3), value, np.float32), "k": np.full(count, int(value), np.int64)}


def values(data: CalibrationData) -> list[float]:
    return [float(item["x"].reshape(-1)[0]) for item in data]


def test_keys_with_a_number_are_samples_and_other_keys_are_not(tmp_path: Path) -> None:
    arrays = {f"{i}|{name}": array for i in (10, 2, 0) for name, array in sample(i).items()}
    path = tmp_path / "feeds.npz"
    np.savez(path, labels=np.arange(3), **arrays, **{"0#notes": np.zeros(2)})
    data = CalibrationData.open(path).for_model(MODEL)
    assert len(data) == 3
    assert values(data) == [0.0, 2.0, 10.0]
    assert list(data[0]) == ["x", "k"]


def test_a_name_with_a_bar_or_colon_is_kept_whole(tmp_path: Path) -> None:
    np.savez(tmp_path / "f.npz", **{"000|a|b:0": np.zeros(1, np.float32)})
    assert list(CalibrationData.open(tmp_path / "f.npz")[0]) == ["a|b:0"]


def test_stacked_arrays_are_cut_and_keep_or_lose_their_first_axis_as_the_model_wants(tmp_path: Path) -> None:
    path = tmp_path / "stacked.npz"
    np.savez(path, x=np.arange(12, dtype=np.float32).reshape(4, 3), k=np.arange(4))
    data = CalibrationData.open(path).for_model(MODEL)
    assert [item["x"].shape for item in data] == [(1, 3)] * 4
    assert values(data) == [0.0, 3.0, 6.0, 9.0]
    single = model("g (float[3] x, int64 k) => (float[3] y) { y = Relu(x) }")
    assert [item["x"].shape for item in CalibrationData.open(path).for_model(single)] == [(3,)] * 4


def test_stacked_arrays_of_unequal_length_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "f.npz", x=np.zeros((4, 3)), k=np.zeros(3))
    with pytest.raises(GraphoptError, match="equally many samples: 'x' has 4, 'k' has 3"):
        CalibrationData.open(tmp_path / "f.npz")


def test_a_folder_of_archives_holds_one_sample_each(tmp_path: Path) -> None:
    for i in range(3):
        np.savez(tmp_path / f"{i:03}.npz", **sample(i, count=i + 1))
    data = CalibrationData.open(str(tmp_path)).for_model(MODEL)
    assert [item["x"].shape for item in data] == [(1, 3), (2, 3), (3, 3)]


def test_onnx_test_data_is_read_in_the_order_of_the_inputs(tmp_path: Path) -> None:
    for i in (0, 2, 10):
        folder = tmp_path / f"test_data_set_{i}"
        folder.mkdir()
        for k, array in enumerate(sample(i).values()):
            content = numpy_helper.from_array(array, "wrong name").SerializeToString()
            (folder / f"input_{k}.pb").write_bytes(content)
        (folder / "output_0.pb").write_bytes(b"")
    data = CalibrationData.open(tmp_path).for_model(MODEL)
    assert values(data) == [0.0, 2.0, 10.0]
    assert values(CalibrationData.open(tmp_path / "test_data_set_2").for_model(MODEL)) == [2.0]


def test_onnx_test_data_may_hold_sequences(tmp_path: Path) -> None:
    graph = model("g (seq(float[N]) s) => (int64 n) { n = SequenceLength(s) }")
    parts = [np.zeros(2, np.float32), np.ones(3, np.float32)]
    (tmp_path / "input_0.pb").write_bytes(numpy_helper.from_list(parts).SerializeToString())
    data = CalibrationData.open(tmp_path).for_model(graph)
    assert Session(graph, optimized=False).run(data[0])["n"] == 2


def test_iterables_can_be_gone_through_again() -> None:
    given = [sample(1), sample(2)]
    for origin in (given, tuple(given), (item for item in given)):
        data = CalibrationData.open(origin).for_model(MODEL)
        assert values(data) == values(data) == [1.0, 2.0]
    assert CalibrationData.open(data) is data


def test_random_data_runs_and_is_marked() -> None:
    graph = model("g (float[N, 3] x) => (float[N, 3] y) { y = Relu(x) }")
    data = CalibrationData.random(graph, count=3, dims={"N": 2})
    assert data.synthetic
    assert data.take(2).for_model(graph).synthetic
    assert [item["x"].shape for item in data] == [(2, 3)] * 3
    assert verify(graph, graph, data).feeds == 3
    assert not CalibrationData.open([sample()]).synthetic


def test_half_precision_files_feed_single_precision_models() -> None:
    half = {"x": np.full((1, 3), 0.1, np.float16), "k": np.zeros(1, np.int64)}
    fed = CalibrationData.open([half]).for_model(MODEL)[0]["x"]
    assert fed.dtype == np.float32
    assert (fed == half["x"]).all()


@pytest.mark.parametrize(
    ("change", "what", "hint"),
    [
        ({"x": np.zeros((1, 3), np.uint8)}, "uint8, the input wants float", "scaled"),
        ({"x": np.zeros((1, 3))}, "double, the input wants float", "astype"),
        ({"k": np.zeros(1, np.int32)}, "int32, the input wants int64", "astype"),
        ({"k": np.zeros(1, np.float16)}, "float16, the input wants int64", "astype"),
        ({"x": np.zeros((1, 4), np.float32)}, r"\[1, 4\] does not fit", ""),
        ({"x": np.zeros((1, 1, 3), np.float32)}, "does not fit", ""),
        ({"X": np.zeros(1)}, "no input 'X'", "did you mean 'x'"),
        ({"k": None}, "'k' is not fed", "'x', 'k'"),
    ],
)
def test_what_does_not_fit_the_model_is_refused(change: dict, what: str, hint: str) -> None:
    given = {key: value for key, value in {**sample(), **change}.items() if value is not None}
    with pytest.raises(GraphoptError, match=what) as caught:
        CalibrationData.open([given]).for_model(MODEL)
    assert hint in caught.value.hint


def test_a_later_sample_that_does_not_fit_is_named() -> None:
    data = CalibrationData.open([sample(), sample(), {"x": np.zeros((1, 3), np.float32)}]).for_model(MODEL)
    with pytest.raises(GraphoptError) as caught:
        list(data)
    assert "sample 2" in caught.value.where


def test_bytes_can_be_scaled() -> None:
    stored = {"x": np.asarray([[0, 127, 255]], np.uint8), "k": np.zeros(1, np.int64)}
    data = CalibrationData.open([stored]).scaled({"x": (127, 128)}).for_model(MODEL)
    np.testing.assert_array_equal(data[0]["x"], np.asarray([[-127 / 128, 0, 1]], np.float32))
    with pytest.raises(GraphoptError, match="no input 'z' to scale"):
        CalibrationData.open([stored]).scaled({"z": (0, 1)})[0]


def test_the_digest_is_that_of_the_content(tmp_path: Path) -> None:
    for i in range(2):
        np.savez(tmp_path / f"{i}.npz", **sample(i))
    stored = CalibrationData.open(tmp_path)
    same = CalibrationData.open([sample(0), sample(1)])
    assert stored.digest == same.digest
    others = (
        [sample(1), sample(0)],
        [sample(0)],
        [sample(0), {**sample(1), "k": np.ones(1, np.int32)}],
        [sample(0), {"x": sample(1)["x"].reshape(3, 1), "k": sample(1)["k"]}],
        [sample(0), {"z": sample(1)["x"], "k": sample(1)["k"]}],
    )
    assert len({CalibrationData.open(other).digest for other in others} | {same.digest}) == len(others) + 1


def test_data_can_be_sent_to_another_process(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **sample(3))
    data = CalibrationData.open(tmp_path).for_model(MODEL)
    assert pickle.loads(pickle.dumps(data)).digest == data.digest


def test_files_are_read_when_asked_for(tmp_path: Path) -> None:
    for i in range(3):
        np.savez(tmp_path / f"{i}.npz", **sample(i))
    data = CalibrationData.open(tmp_path).for_model(MODEL)
    np.savez(tmp_path / "2.npz", **sample(7))
    assert values(data) == [0.0, 1.0, 7.0]


def test_places_without_feeds_are_errors(tmp_path: Path) -> None:
    with pytest.raises(GraphoptError, match="no such file or folder") as caught:
        CalibrationData.open(tmp_path / "absent")
    assert caught.value.exit_code == 2
    with pytest.raises(GraphoptError, match="holds no feeds"):
        CalibrationData.open(tmp_path)
    with pytest.raises(GraphoptError, match="there are no samples"):
        CalibrationData.open([])
    np.savez(tmp_path / "empty.npz")
    with pytest.raises(GraphoptError, match="holds no arrays"):
        CalibrationData.open(tmp_path / "empty.npz")
    np.savez(tmp_path / "none.npz", x=np.zeros((0, 3)))
    with pytest.raises(GraphoptError, match="there are no samples"):
        CalibrationData.open(tmp_path / "none.npz")


def test_damaged_files_are_errors(tmp_path: Path) -> None:
    text = tmp_path / "text.npz"
    text.write_text("not an archive")
    with pytest.raises(GraphoptError, match=r"no \.npz file"):
        CalibrationData.open(text)
    np.save(tmp_path / "array.npy", np.zeros(3))
    with pytest.raises(GraphoptError, match="single array"):
        CalibrationData.open(tmp_path / "array.npy")
    np.savez(tmp_path / "cut.npz", **{"0|x": RNG.random(5000)})
    content = (tmp_path / "cut.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(content[: len(content) // 2])
    with pytest.raises(GraphoptError):
        CalibrationData.open(tmp_path / "cut.npz")
    np.savez(tmp_path / "objects.npz", **{"0|x": np.asarray([{}, 1], object)})
    with pytest.raises(GraphoptError, match="cannot be read"):
        CalibrationData.open(tmp_path / "objects.npz").for_model(MODEL)
    broken = tmp_path / "test_data_set_0"
    broken.mkdir()
    (broken / "input_0.pb").write_bytes(b"\xff\xff\xff")
    (tmp_path / "only").mkdir()
    broken.rename(tmp_path / "only" / "test_data_set_0")
    with pytest.raises(GraphoptError, match="no ONNX tensor"):
        CalibrationData.open(tmp_path / "only").for_model(MODEL)


def test_samples_that_are_no_mappings_are_errors() -> None:
    with pytest.raises(GraphoptError, match="is a ndarray, not a mapping"):
        CalibrationData.open([np.zeros(3)]).for_model(MODEL)  # type: ignore[list-item]


def test_a_model_from_a_file_is_compared_on_files(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(ir.to_proto(MODEL), path)
    np.savez(tmp_path / "feeds.npz", **{f"{i}|{name}": array for i in range(2) for name, array in sample(i).items()})
    assert verify(path, path, CalibrationData.open(tmp_path / "feeds.npz").for_model(MODEL)).feeds == 2
