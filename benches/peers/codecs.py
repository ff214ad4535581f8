"""Decodes and encodes every type with weigh and with ggml's C code (libgguf, PyPI), on one thread, in turn; prints a table of ratios.

codecs.py EXAMPLE [TYPE ...]: EXAMPLE is target/release/examples/codec_rate. Outputs are compared: `differ` in the table is a fault.
"""
import pathlib, statistics, subprocess, sys, tempfile, time

import libgguf
import numpy as np
from libgguf import GGMLQuantizationType as Type

ROWS, COLUMNS, ROUNDS = 16, 2048, 5
TYPES = ["Q1_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ1_S", "IQ1_M", "IQ2_XXS",
         "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_NL", "IQ4_XS", "TQ1_0", "TQ2_0", "MXFP4", "NVFP4"]


def best(work, seconds=0.15):
    """Returns the nanoseconds of the best run, of as many as fit into the time, with the same clock as for weigh."""
    started, least = time.perf_counter(), float("inf")
    while least == float("inf") or time.perf_counter() - started < seconds:
        start = time.perf_counter_ns()
        work()
        least = min(least, time.perf_counter_ns() - start)
    return least / (ROWS * COLUMNS)


def versus(theirs, command, out):
    """Returns weigh's speedup, measured alternately, and the bytes that it wrote."""
    ratios = [best(theirs) / float(subprocess.run(command, check=True, capture_output=True, text=True).stdout) for _ in range(ROUNDS)]
    return statistics.median(ratios), pathlib.Path(out).read_bytes()


def compare(example, name, folder):
    value = Type[name].value if name in Type.__members__ else {"Q1_0": 41}[name]
    random = np.random.default_rng(1)
    values = (random.standard_normal((ROWS, COLUMNS)) * 0.02).astype(np.float32)
    importance = (random.uniform(size=COLUMNS) ** 3 * 10 + 0.01).astype(np.float32)
    inputs, weights, encoded, out = (str(folder / file) for file in ("values", "importance", "encoded", "out"))
    values.tofile(inputs)
    importance.tofile(weights)
    row = {"type": name}
    bytes_a_row = libgguf.row_size(value, COLUMNS)
    theirs = np.zeros((ROWS, bytes_a_row), np.uint8)
    for key, given in (("encode", None), ("with importance", importance)):
        if given is None and libgguf.quantize_requires_imatrix(value):
            continue
        command = [example, "encode", name, str(COLUMNS), inputs, out] + ([weights] if given is not None else [])
        ratio, ours = versus(lambda: libgguf.quantize_rows_into_raw(value, values, theirs, ROWS, COLUMNS, given), command, out)
        row[key] = f"{ratio:.1f}" + ("" if ours == theirs.tobytes() else " differ")
    theirs.tofile(encoded)
    decoded = np.zeros((ROWS, COLUMNS), np.float32)
    ratio, ours = versus(lambda: libgguf.dequantize_rows_into_raw(value, theirs, decoded, ROWS, COLUMNS), [example, "decode", name, encoded, out], out)
    row["decode"] = f"{ratio:.1f}" + ("" if ours == decoded.tobytes() else " differ")
    return row


def main():
    example, *names = sys.argv[1:]
    columns = ["type", "decode", "encode", "with importance"]
    print("| " + " | ".join(columns) + " |\n| --- | --: | --: | --: |")
    with tempfile.TemporaryDirectory() as folder:
        for name in names or TYPES:
            row = compare(example, name, pathlib.Path(folder))
            print("| " + " | ".join(row.get(column, "") for column in columns) + " |", flush=True)


if __name__ == "__main__":
    main()
