"""Model weight files: metadata, tensors as NumPy arrays, and the operations of the weigh program.

>>> model = weigh.open("model.gguf")
>>> model["blk.0.attn_q.weight"].shape
(1024, 640)
"""

from __future__ import annotations

import builtins
import json
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import ml_dtypes
import numpy

from weigh import _weigh
from weigh._weigh import Error, __version__

__all__ = ["Error", "Model", "Tensor", "__version__", "diff", "main", "open", "verify"]

# Types that NumPy (with ml_dtypes) supports: their arrays are views of the file.
_DTYPES = {
    "F64": numpy.float64,
    "F32": numpy.float32,
    "F16": numpy.float16,
    "BF16": ml_dtypes.bfloat16,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2": ml_dtypes.float8_e5m2,
    "F8_E4M3FNUZ": ml_dtypes.float8_e4m3fnuz,
    "F8_E5M2FNUZ": ml_dtypes.float8_e5m2fnuz,
    "F8_E8M0": ml_dtypes.float8_e8m0fnu,
    "I8": numpy.int8,
    "I16": numpy.int16,
    "I32": numpy.int32,
    "I64": numpy.int64,
    "U8": numpy.uint8,
    "U16": numpy.uint16,
    "U32": numpy.uint32,
    "U64": numpy.uint64,
    "BOOL": numpy.bool_,
    "C64": numpy.complex64,
}


@dataclass(frozen=True)
class Tensor:
    """A tensor of an open model. Nothing is read before `array` or `rows`."""

    name: str
    dtype: str
    """Type as stored (`Q4_K`, `BF16`); `F32` for a packed weight."""
    packing: str | None
    """Packing of the weight (`GPTQ-4`, `NVFP4`), or `None`."""
    shape: tuple[int, ...]
    _model: _weigh.NativeModel

    def array(self, decode: bool | None = None) -> numpy.ndarray:
        """Returns the values: a read-only view of the file if NumPy supports the type; otherwise, or with `decode`, a copy in F32."""
        return self._array(None, self.shape, decode)

    def rows(self, start: int, stop: int, decode: bool | None = None) -> numpy.ndarray:
        """Returns rows `start` to `stop` like `array`, reading only those rows."""
        if not self.shape:
            raise IndexError("a scalar has no rows")
        start, stop, _ = slice(start, stop).indices(self.shape[0])
        return self._array((start, max(start, stop)), (max(0, stop - start), *self.shape[1:]), decode)

    def bytes(self) -> memoryview:
        """Returns the bytes as stored."""
        return memoryview(self._model.read(self.name, None, False))

    def _array(self, rows, shape, decode) -> numpy.ndarray:
        plain = _DTYPES.get(self.dtype)
        decode = plain is None if decode is None else decode
        data = self._model.read(self.name, rows, decode)
        return numpy.frombuffer(data, dtype=numpy.float32 if decode else plain).reshape(shape)


class Model(Mapping[str, numpy.ndarray]):
    """An open model: a mapping from tensor names to arrays, with the operations of weigh."""

    def __init__(self, path: str | os.PathLike[str]):
        self._native = _weigh.open_model(os.fspath(path))
        rows = self._native.tensors()
        self.tensors = {name: Tensor(name, dtype, packing, tuple(shape), self._native) for name, dtype, packing, shape in rows}
        """The tensors by name, in file order."""
        self.path = os.fspath(path)

    def __getitem__(self, name: str) -> numpy.ndarray:
        return self.tensors[name].array()

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)

    def __contains__(self, name: object) -> bool:
        return name in self.tensors

    def __repr__(self) -> str:
        return f"<weigh.Model {self.path!r}: {len(self)} tensors, {self.format}>"

    @property
    def format(self) -> str:
        """`safetensors`, `gguf`, `pytorch` ..."""
        return self._native.format()

    @property
    def metadata(self) -> dict:
        """The metadata, with arrays in full."""
        return json.loads(self._native.metadata())

    @property
    def config(self) -> dict | None:
        """The contents of config.json beside the weights."""
        config = self._native.config()
        return None if config is None else json.loads(config)

    def info(self) -> dict:
        """Returns the report of `weigh info --json`."""
        return json.loads(self._native.info())

    def count(self) -> dict:
        """Returns the report of `weigh count --json`."""
        return json.loads(self._native.count())

    def stats(self, *, filter=(), exclude=(), by=None, sample=None, progress=None) -> dict:
        """Returns the report of `weigh stats --json`; `by` is tensor, layer, component, dtype or model."""
        return json.loads(self._native.stats(_list(filter), _list(exclude), by, sample, progress))

    def hash(self, *, content: bool = False) -> list[dict]:
        """Returns the report of `weigh hash --json`, one for each algorithm."""
        return json.loads(self._native.hash(content))

    def diff(self, other: Model | str | os.PathLike[str], *, filter=(), exclude=(), quick=False, tolerance=None, progress=None) -> dict:
        """Returns the report of `weigh diff --json`."""
        other = other if isinstance(other, Model) else Model(other)
        return json.loads(self._native.diff(other._native, _list(filter), _list(exclude), quick, tolerance, progress))

    def convert(self, out: str | os.PathLike[str], *, progress=None, **options) -> dict:
        """Converts the model, and returns the report of `weigh convert --json`. Options are named as on the command line: `type="Q4_K_M"`, `imatrix`,
        `adapter` (one or a list), `shard_size` (bytes), `strict`, `force`, `dry_run` ..."""
        pairs = [(name, str(value)) for name, values in options.items() for value in _list(values) if value is not None]
        return json.loads(self._native.convert(os.fspath(out), pairs, progress))

    def fit(self, *arguments: str) -> dict:
        """Returns the report of `weigh fit --json`; `arguments` are those of the command line: `fit("--context", "32768")`."""
        return json.loads(self._native.command("fit", self.path, list(arguments)))


def open(path: str | os.PathLike[str]) -> Model:
    """Opens a model: a file, a folder, one part of a set, or an address (`ORG/NAME`, `hf://`, `https://`, `s3://`). Reads headers only."""
    return Model(path)


def diff(a, b, **options) -> dict:
    """Compares two models; see `Model.diff`."""
    return (a if isinstance(a, Model) else Model(a)).diff(b, **options)


def verify(path: str | os.PathLike[str], *, data: bool = False, manifest=None, progress=None) -> dict:
    """Checks a model, and returns what `weigh verify --json` says."""
    return json.loads(_weigh.verify_model(os.fspath(path), data, manifest, progress))


def main() -> None:
    """Runs the command line."""
    sys.stdout.flush()
    sys.exit(_weigh.run([os.fsencode(argument) for argument in sys.argv]))


def _list(value) -> list:
    return [value] if isinstance(value, str | os.PathLike) or not isinstance(value, builtins.list | tuple) else builtins.list(value)
