"""Times reading every tensor of a file as a NumPy array, with weigh and with the library of the format.

    python benchmark.py FILE [RUNS]

A GGUF file is read with `gguf` and its `dequantize`, a safetensors file with `safetensors.numpy`. Each run is a separate
process, the best of RUNS (default 5) counts, and the file is in the page cache. Every value is summed, so that memory-mapped pages are read as
well.
"""

import pathlib
import subprocess
import sys
import time


def with_weigh(path):
    import weigh

    model = weigh.open(path)
    for name in model.tensors:
        yield model[name]


def with_gguf(path):
    from gguf import GGUFReader
    from gguf.quants import dequantize

    for tensor in GGUFReader(path).tensors:
        yield dequantize(tensor.data, tensor.tensor_type)


def with_safetensors(path):
    import ml_dtypes  # noqa: F401  (BF16 arrays)
    from safetensors.numpy import load_file

    yield from load_file(path).values()


READERS = {"weigh": with_weigh, "gguf": with_gguf, "safetensors": with_safetensors}


def run(reader, path):
    """Prints the seconds, the number of elements and the sum of all values."""
    start = time.perf_counter()
    elements, total = 0, 0.0
    for array in READERS[reader](path):
        elements += array.size
        total += float(array.sum(dtype="float64"))
    print(time.perf_counter() - start, elements, total)


def best(reader, path, runs):
    """Returns the least seconds of several runs, the number of elements and the sum."""
    command = [sys.executable, __file__, path, "--reader", reader]
    results = [subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.split() for _ in range(runs)]
    return min(float(result[0]) for result in results), int(results[0][1]), float(results[0][2])


def main():
    path, *rest = sys.argv[1:]
    if rest[:1] == ["--reader"]:
        return run(rest[1], path)
    runs = int(rest[0]) if rest else 5
    other = "gguf" if pathlib.Path(path).suffix == ".gguf" else "safetensors"
    pathlib.Path(path).read_bytes()  # into the page cache
    for reader in ["weigh", other]:
        seconds, elements, total = best(reader, path, runs)
        print(f"{reader:12} {seconds * 1000:9.1f} ms  {elements / seconds / 1e6:9.1f} M elements/s  {elements:,} elements, sum {total:.6g}")


if __name__ == "__main__":
    main()
