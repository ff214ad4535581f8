#!/usr/bin/env python3
"""Packing of weights for engines that serve safetensors, against llm-compressor: time, memory and bytes.

    serving.py --weigh target/release/weigh --work DIR [--runs N] [TYPE=SCHEME ...]

Run it with a Python that has llmcompressor, compressed-tensors, torch (CPU) and safetensors. A model of 405 MB is made in DIR, and both write to
memory. Each runs in turn, on all cores; of llm-compressor the whole process is timed, and the call alone, without its imports.
"""
import argparse, json, os, pathlib, shutil, statistics, subprocess, sys, time

import numpy as np

import inputs

SHAPE = inputs.Shape(layers=9, width=1024, feed_forward=4096, heads=16, kv_heads=4)
CALL = """
import sys, time
from llmcompressor import model_free_ptq
start = time.perf_counter()
model_free_ptq(sys.argv[1], sys.argv[2], scheme=sys.argv[3], ignore=["lm_head", "model.embed_tokens"], device="cpu", max_workers=2)
print("seconds", time.perf_counter() - start)
"""


def measured(command):
    """Returns the seconds of a run, its output, and its sampled peak anonymous memory in MiB."""
    start, peak = time.perf_counter(), 0
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    while process.poll() is None:
        try:
            status = open(f"/proc/{process.pid}/status").read()
        except FileNotFoundError:
            break
        peak = max([peak, *(int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon:"))])
        time.sleep(0.002)
    seconds = time.perf_counter() - start
    out = process.communicate()[0]
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return seconds, out, peak / 1024


def tensors(path):
    data = np.memmap(path, np.uint8)
    length = int(data[:8].view("<u8")[0])
    header = json.loads(bytes(data[8:8 + length]))
    header.pop("__metadata__", None)
    return {name: (of["dtype"], of["shape"], data[8 + length + of["data_offsets"][0]:8 + length + of["data_offsets"][1]]) for name, of in header.items()}


def equal(a, b):
    a, b = tensors(a), tensors(b)
    return a.keys() == b.keys() and all(a[name][:2] == b[name][:2] and np.array_equal(a[name][2], b[name][2]) for name in a)


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--weigh", default="target/release/weigh")
    arguments.add_argument("--work", type=pathlib.Path, required=True)
    arguments.add_argument("--runs", type=int, default=3)
    arguments.add_argument("types", nargs="*", default=["FP8=FP8_DYNAMIC", "FP8_BLOCK=FP8_BLOCK", "NVFP4=NVFP4A16", "INT4=W4A16"])
    arguments = arguments.parse_args()
    source = inputs.llama(arguments.work, [sys.executable, "-m", "pip"], "serving-405", SHAPE)
    memory = pathlib.Path("/dev/shm/weigh-serving")
    shutil.rmtree(memory, ignore_errors=True)
    memory.mkdir()
    ours, theirs = memory / "ours", memory / "theirs"
    size = (source / "model.safetensors").stat().st_size

    def run(command):
        for out in (ours, theirs):
            shutil.rmtree(out, ignore_errors=True)
        return measured(command)

    copies = []
    for _ in range(arguments.runs + 1):
        (memory / "copy").unlink(missing_ok=True)
        copies.append(measured(["cp", str(source / "model.safetensors"), str(memory / "copy")])[0])
    (memory / "copy").unlink()
    print(f"cp of {size / 1e6:.0f} MB: {statistics.median(copies[1:]):.3f} s")
    for name in arguments.types:
        kind, scheme = name.split("=")
        convert = [arguments.weigh, "convert", str(source), str(ours) + "/", "--type", kind, "--quiet"]
        reference = [sys.executable, "-c", CALL, str(source), str(theirs), scheme]
        runs = {"weigh": [], "weigh --no-quality": [], "llm-compressor": []}
        for _ in range(arguments.runs):
            runs["llm-compressor"].append(run(reference))
            runs["weigh --no-quality"].append(run([*convert, "--no-quality"]))
            runs["weigh"].append(run(convert))
        run(reference)
        shutil.move(theirs, memory / "kept")
        run(convert)
        same = equal(ours / "model.safetensors", memory / "kept" / "model.safetensors")
        shutil.rmtree(memory / "kept")
        seconds = {who: statistics.median(one[0] for one in all) for who, all in runs.items()}
        inner = statistics.median(float(out.split()[-1]) for _, out, _ in runs["llm-compressor"])
        print(f"{kind}: {'equal' if same else 'DIFFERENT'} tensors")
        for who, all in runs.items():
            note = f", the call alone {inner:.2f} s" if who == "llm-compressor" else f", {seconds['llm-compressor'] / seconds[who]:.1f} x, of the call {inner / seconds[who]:.1f} x"
            print(f"  {who}: {seconds[who]:.3f} s{note}, {max(one[2] for one in all):.0f} MiB anonymous")
    shutil.rmtree(memory)


main()
