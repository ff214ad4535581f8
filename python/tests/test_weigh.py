"""The Python module against the libraries that people use: safetensors, gguf, torch."""

import pathlib

import gguf
import numpy
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

import weigh

FIXTURES = pathlib.Path(__file__).parents[2] / "fixtures"
FOLDER = FIXTURES / "llama-tiny"
GGUF = FIXTURES / "llama-tiny-q8_0.gguf"


def test_safetensors_are_those_of_safetensors():
    model = weigh.open(FOLDER)
    with safe_open(FOLDER / "model.safetensors", "numpy") as expected:
        names = list(expected.keys())
        assert sorted(model) == sorted(names)
        for name in names:
            view = expected.get_slice(name)
            assert model.tensors[name].shape == tuple(view.get_shape())
            assert model.tensors[name].dtype == view.get_dtype()
    # BF16 is the upper half of F32.
    name = "model.embed_tokens.weight"
    array = model[name]
    assert array.dtype.name == "bfloat16"
    single = model.tensors[name].array(decode=True)
    assert (single.view(numpy.uint32) >> 16 == array.view(numpy.uint16)).all()


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "bool"])
def test_plain_types_are_views(tmp_path, dtype):
    expected = (numpy.arange(24).reshape(2, 3, 4) % 3).astype(dtype)
    save_file({"x": expected, "empty": numpy.zeros((0, 4), dtype)}, tmp_path / "m.safetensors")
    model = weigh.open(tmp_path / "m.safetensors")
    array = model["x"]
    assert array.dtype == expected.dtype and (array == expected).all()
    assert model["empty"].shape == (0, 4)
    assert not array.flags.writeable
    assert array.ctypes.data == model["x"].ctypes.data, "both are the mapping"
    assert (model.tensors["x"].rows(1, 2) == expected[1:2]).all()
    assert model.tensors["x"].rows(1, 9).shape == (1, 3, 4)
    del model
    assert (array == expected).all(), "the array keeps the file open"


def test_quantised_tensors_are_those_of_gguf():
    model = weigh.open(GGUF)
    reader = gguf.GGUFReader(GGUF)
    assert list(model) == [tensor.name for tensor in reader.tensors]
    for tensor in reader.tensors:
        expected = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        array = model[tensor.name]
        assert array.dtype == numpy.float32
        assert (array == expected.reshape(array.shape)).all(), tensor.name
        if expected.ndim == 2:
            assert (model.tensors[tensor.name].rows(1, 3) == expected[1:3]).all()
    field = reader.get_field("tokenizer.ggml.tokens")
    assert model.metadata["tokenizer.ggml.tokens"] == field.contents()
    assert model.metadata["general.architecture"] == "llama"


def test_checkpoints_are_those_of_torch(tmp_path):
    torch = pytest.importorskip("torch")
    tensors = {"a": torch.arange(12.0).reshape(3, 4).t(), "b": torch.ones(2, dtype=torch.bfloat16)}
    torch.save(tensors, tmp_path / "m.pt")
    model = weigh.open(tmp_path / "m.pt")
    assert (model["a"] == tensors["a"].numpy()).all()
    assert (model["b"].astype("float32") == 1).all()


def test_operations_are_those_of_the_command_line(tmp_path):
    model = weigh.open(FOLDER)
    assert model.config["model_type"] == "llama"
    assert model.info()["architecture"] == "llama"
    assert model.count()["parameters"] == 94848
    assert model.fit("--context", "512")["context"] == 512
    assert weigh.verify(FOLDER)["ok"]
    assert weigh.verify(GGUF, data=True)["checked"]["values"] == len(weigh.open(GGUF))
    steps = []
    stats = model.stats(filter="*norm*", progress=lambda done, total: steps.append((done, total)))
    assert {row["name"] for row in stats["tensors"]} == {name for name in model if "norm" in name}
    assert steps and all(done <= total for done, total in steps)
    mean = stats["tensors"][0]
    assert mean["mean"] == pytest.approx(model.tensors[mean["name"]].array(decode=True).astype("float64").mean())
    assert weigh.diff(FOLDER, FOLDER)["identical"]
    assert not model.diff(GGUF, tolerance=0.1)["identical"]
    plan = model.convert(tmp_path / "m.gguf", type="Q4_K_M", dry_run=True)
    assert plan["dry_run"] and not (tmp_path / "m.gguf").exists()
    model.convert(tmp_path / "m.gguf", type="Q8_0")
    assert weigh.open(tmp_path / "m.gguf").hash()[0]["model"] == weigh.open(GGUF).hash()[0]["model"]


def test_errors_are_those_of_the_command_line(tmp_path):
    with pytest.raises(weigh.Error, match="cannot open"):
        weigh.open(tmp_path / "none.gguf")
    (tmp_path / "empty.gguf").write_bytes(b"")
    with pytest.raises(weigh.Error, match="empty"):
        weigh.open(tmp_path / "empty.gguf")
    with pytest.raises(KeyError):
        weigh.open(GGUF)["none"]
    with pytest.raises(weigh.Error, match="already exists"):
        weigh.open(FOLDER).convert(tmp_path / "empty.gguf")
    with pytest.raises(weigh.Error, match="expected a tensor type"):
        weigh.open(FOLDER).convert(tmp_path / "x.gguf", type="Q9")
    with pytest.raises(ValueError, match="no option"):
        weigh.open(FOLDER).convert(tmp_path / "x.gguf", colour=True)


def test_the_wheel_carries_the_program(capfd, monkeypatch):
    monkeypatch.setattr("sys.argv", ["weigh", "count", str(GGUF), "--json"])
    with pytest.raises(SystemExit) as exit:
        weigh.main()
    assert exit.value.code == 0
    assert '"parameters": 94848' in capfd.readouterr().out
