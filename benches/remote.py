#!/usr/bin/env python3
"""Measures range reads from a server on the loopback interface: `benches/remote.py MODEL.gguf [--large]`.

Needs `cargo build --release --example serve` and `cargo build --release`, curl and nginx. Medians of RUNS; the files are made in a temporary folder.
--large also streams 2.2 GB, and converts a model of the size and shapes of Llama 3.2 1B (needs gguf and numpy).
"""
import array
import json
import os
import pathlib
import random
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
WEIGH = ROOT / "target/release/weigh"
SERVE = ROOT / "target/release/examples/serve"
RUNS = 3


class Nginx:
    """nginx with its packaged settings, for figures that depend on the speed of the server."""

    def __init__(self, folder, port):
        self.url = f"http://127.0.0.1:{port}/"
        settings = folder / "nginx.conf"
        settings.write_text(
            f"user root; worker_processes auto; daemon off; pid {folder}/nginx.pid; error_log {folder}/nginx.log; events {{}} "
            f"http {{ sendfile on; tcp_nopush on; access_log off; server {{ listen 127.0.0.1:{port}; root {folder}; }} }}")
        self.process = subprocess.Popen(["nginx", "-c", settings])
        time.sleep(0.5)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()


class Server:
    def __init__(self, folder, port, delay):
        self.url = f"http://127.0.0.1:{port}/"
        self.process = subprocess.Popen([SERVE, folder, str(port), str(delay)])
        time.sleep(0.5)

    def seen(self):
        with urllib.request.urlopen(self.url + "-/seen") as answer:
            return json.load(answer)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()


def run(args, **environment):
    """Returns the seconds and the peak memory in MB."""
    command = ["/usr/bin/time", "-f", "%e %M", *map(str, args)]
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True)
    if done.returncode not in (0, 1):
        sys.exit(f"{args}: {done.stderr}")
    seconds, kilobytes = done.stderr.strip().splitlines()[-1].split()
    return float(seconds), int(kilobytes) / 1000


def measure(name, args, server=None, before=None, **environment):
    if server:
        server.seen()
    runs = []
    for _ in range(RUNS):
        if before:
            before()
        runs.append(run(args, **environment))
    seen = server.seen() if server else {"requests": 0, "bytes": 0}
    seconds, memory = statistics.median(s for s, _ in runs), max(m for _, m in runs)
    print(f"{name:40} {seconds:7.2f} s {memory:7.0f} MB {seen['requests'] // RUNS:5} requests {seen['bytes'] // RUNS:14,} bytes", flush=True)
    return seconds


def interleaved(commands):
    """Returns the medians of commands that are run alternately, so that other load affects them alike."""
    runs = {name: [] for name in commands}
    for _ in range(3 * RUNS):
        for name, command in commands.items():
            runs[name].append(run(command))
    for name, done in runs.items():
        print(f"{name:40} {statistics.median(s for s, _ in done):7.2f} s {max(m for _, m in done):7.0f} MB", flush=True)
    return [statistics.median(s for s, _ in done) for done in runs.values()]


def normal_values():
    """Returns a million normally distributed values in BF16."""
    draw = random.Random(1)
    values = array.array("f", (draw.gauss(0, 0.02) for _ in range(1 << 20))).tobytes()
    out = bytearray(len(values) // 2)
    out[0::2], out[1::2] = values[2::4], values[3::4]
    return bytes(out)


def shards(folder, count, rows, values=None):
    """Writes BF16 shards whose data is a hole, or repeats the given values."""
    folder.mkdir(parents=True)
    weights = {}
    for shard in range(1, count + 1):
        file = f"model-{shard:05}-of-{count:05}.safetensors"
        tensors = {}
        size = rows * 4096 * 2
        for i in range(10):
            name = f"model.layers.{shard}.mlp.experts.{i}.up_proj.weight"
            weights[name] = file
            tensors[name] = {"dtype": "BF16", "shape": [rows, 4096], "data_offsets": [i * size, (i + 1) * size]}
        header = json.dumps(tensors).encode()
        header += b" " * (-len(header) % 8)
        with open(folder / file, "wb") as out:
            out.write(len(header).to_bytes(8, "little") + header)
            out.truncate(8 + len(header) + 10 * size)
            for _ in range(0, 10 * size if values else 0, len(values or b" ")):
                out.write(values)
            out.truncate(8 + len(header) + 10 * size)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weights}))
    (folder / "config.json").write_text('{"model_type": "llama"}')


def llama_1b(path):
    """Writes a GGUF of F16 values with the shapes of Llama 3.2 1B, without a tokenizer."""
    import gguf
    import numpy
    width, inner, keys, layers, vocabulary = 2048, 8192, 512, 16, 128256
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(layers)
    writer.add_context_length(131072)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(32)
    writer.add_head_count_kv(8)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(vocabulary)
    values = numpy.random.default_rng(1).normal(0, 0.02, 1 << 24).astype(numpy.float16)
    shapes = {"attn_q": (width, width), "attn_k": (keys, width), "attn_v": (keys, width), "attn_output": (width, width),
              "ffn_gate": (inner, width), "ffn_up": (inner, width), "ffn_down": (width, inner)}
    tensors = {"token_embd": (vocabulary, width), "output_norm": (width,)}
    for layer in range(layers):
        tensors |= {f"blk.{layer}.{name}": shape for name, shape in {"attn_norm": (width,), "ffn_norm": (width,), **shapes}.items()}
    for name, shape in tensors.items():
        data = numpy.resize(values, shape) if len(shape) > 1 else numpy.ones(shape, numpy.float32)
        writer.add_tensor(f"{name}.weight", data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def convert_both(name, file, url, out):
    """Converts a file on disk and from a server, and on disk while curl fetches the file: the work of both, without any waiting of one for the other."""
    args = [out, "--type", "Q4_K_M", "--force", "--quiet"]
    on_disk = [WEIGH, "convert", file, *args]
    beside = ["sh", "-c", 'curl -s -o /dev/null "$0" & "$@"; wait', url, *on_disk]
    here, there, both = interleaved({
        f"convert {name} to Q4_K_M, on disk": on_disk,
        f"convert {name} to Q4_K_M, remote": [WEIGH, "convert", url, *args],
        "the first, and curl at the same time": beside,
    })
    print(f"    {there / here:.2f} of the time on disk, {there / both:.2f} of that with curl")


def main():
    model = pathlib.Path(sys.argv[1]).resolve()
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR", "/tmp")) as name:
        folder = pathlib.Path(name)
        (folder / "org/gguf").mkdir(parents=True)
        (folder / "org/gguf/m.gguf").symlink_to(model)
        shards(folder / "org/large", 200, 80_000)  # 1.3 TB
        shards(folder / "org/middle", 1, 27_000, normal_values())  # 2.2 GB
        with Server(folder, 8650, 50) as slow:
            hub = {"HF_ENDPOINT": slow.url, "HOME": name}
            measure("ls of a GGUF, 50 ms", [WEIGH, "ls", slow.url + "org/gguf/m.gguf", "--no-cache"], slow)
            measure("ls of a GGUF on the Hub, 50 ms", [WEIGH, "ls", "hf://org/gguf/m.gguf", "--no-cache"], slow, **hub)
            measure("ls of 200 shards of 1.3 TB, 50 ms", [WEIGH, "ls", "org/large", "--no-cache"], slow, **hub)
            tensor = "model.layers.7.mlp.experts.3.up_proj.weight"
            measure("show of 4 rows of these, 50 ms", [WEIGH, "show", "org/large", tensor, "--slice", "0:4", "--no-cache"], slow, **hub)
            measure("ls of 200 shards, cached, 50 ms", [WEIGH, "ls", "org/large"], slow, **hub)
        with Nginx(folder, 8651) as fast:
            file, out = folder / "f16.gguf", folder / "out.gguf"
            subprocess.run([WEIGH, "convert", model, file, "--type", "F16", "--quiet"], check=True, stdout=subprocess.DEVNULL)
            convert_both("Gemma 3 270M, F16,", file, fast.url + file.name, out)
            if "--large" in sys.argv:
                llama_1b(folder / "llama.gguf")
                convert_both("Llama 3.2 1B, F16,", folder / "llama.gguf", fast.url + "llama.gguf", out)
                (folder / "llama.gguf").unlink()
                large = "org/middle/model-00001-of-00001.safetensors"
                here, fetched, there = interleaved({
                    "stats of 2.2 GB, on disk": [WEIGH, "stats", folder / large],
                    "curl of 2.2 GB": ["curl", "-s", "-o", "/dev/null", fast.url + large],
                    "stats of 2.2 GB, remote": [WEIGH, "stats", fast.url + large],
                })
                print(f"    {fetched / there:.2f} of the speed of curl, {there / here:.2f} of the time on disk")


main()
