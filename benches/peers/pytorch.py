#!/usr/bin/env python3
"""Compares weigh with what else opens and judges checkpoints of PyTorch.

usage: pytorch.py table WEIGH SCANNERS [HOSTILE]     who opens and who warns of what
       pytorch.py speed WEIGH FOLDER [RUNS]          medians of listing and converting a checkpoint of 2.2 GB

SCANNERS: the bin/ folder of an environment with picklescan, fickling and modelscan. HOSTILE: a folder with manifest.json, whose cases of format
`pytorch` are counted. Run it with a Python that has PyTorch and safetensors. Nothing is loaded with weights_only=False.
"""

import json
import pathlib
import statistics
import subprocess
import sys
import time

FIXTURES = pathlib.Path(__file__).resolve().parents[2] / "fixtures/pytorch"
ORDINARY = """zip.pt legacy.pt old.tar.pt protocol-5.pt bare-2.pkl bare-4.pkl tensor.pt views.pt dtypes.pt quantised.pt sparse.pt lightning.ckpt
deepspeed.pt fairseq.pt ema.pt module.pt module-legacy.pt torchscript.pt deflated.pt big-endian.pt""".split()
LOAD = "import sys, warnings, torch; warnings.simplefilter('ignore'); torch.load(sys.argv[1], weights_only=True)"
MMAP = LOAD.replace("weights_only=True", "weights_only=True, mmap=True")
FICKLING = """
import sys
from fickling.analysis import check_safety, Severity
from fickling.fickle import Pickled, StackedPickle
path = sys.argv[1]
try:
    from fickling.pytorch import PyTorchModelWrapper
    pickled = [PyTorchModelWrapper(path).pickled]
except Exception:
    pickled = list(StackedPickle.load(open(path, 'rb')))
sys.exit(0 if all(check_safety(one).severity <= Severity.LIKELY_SAFE for one in pickled) else 1)
"""


def status(*command):
    try:
        return subprocess.run([str(part) for part in command], capture_output=True, timeout=120).returncode
    except subprocess.TimeoutExpired:
        return None


def judge(weigh, scanners, path):
    """Of each tool: whether it opens the file, or its verdict: clean, warned, failed."""
    verdict = {0: "clean", 1: "warned"}
    return {
        "weigh opens": status(weigh, "ls", path) == 0,
        "torch.load opens": status(sys.executable, "-c", LOAD, path) == 0,
        "torch.load mmap opens": status(sys.executable, "-c", MMAP, path) == 0,
        "weigh verify": verdict.get(status(weigh, "verify", path), "failed"),
        "picklescan": verdict.get(status(scanners / "picklescan", "--path", path), "failed"),
        "modelscan": verdict.get(status(scanners / "modelscan", "-p", path), "failed"),
        "fickling": verdict.get(status(scanners / "python", "-c", FICKLING, path), "failed"),
    }


def table(weigh, scanners, hostile=None):
    scanners = pathlib.Path(scanners)
    rows = {name: judge(weigh, scanners, FIXTURES / name) for name in ORDINARY}
    sets = {"ordinary": (rows, len(rows))}
    if hostile:
        cases = [case for case in json.loads((pathlib.Path(hostile) / "manifest.json").read_text()) if case["format"] == "pytorch"]
        bad = {case["file"]: judge(weigh, scanners, pathlib.Path(hostile) / case["file"]) for case in cases if not case["valid"]}
        good = {case["file"]: judge(weigh, scanners, pathlib.Path(hostile) / case["file"]) for case in cases if case["valid"]}
        unsafe = {case["file"]: bad[case["file"]] for case in cases if not case["valid"] and case.get("expect") == "unsafe"}
        sets |= {"unusual, sound": (good, len(good)), "damaged or harmful": (bad, len(bad)), "of these harmful": (unsafe, len(unsafe))}
    for title, (rows, count) in sets.items():
        print(f"\n{title} ({count})")
        for tool in next(iter(rows.values())):
            values = [row[tool] for row in rows.values()]
            words = {value: values.count(value) for value in sorted(set(map(str, values)))} if isinstance(values[0], str) else {"yes": sum(values)}
            print(f"  {tool:24}", ", ".join(f"{number} {word}" for word, number in words.items()))
    print()
    for title, (rows, _) in sets.items():
        for name, row in rows.items():
            print(name, *("yes" if value is True else "no" if value is False else value for value in row.values()), sep="\t")


def median(runs, command, before=None):
    times = []
    for _ in range(runs):
        if before:
            before()
        start = time.perf_counter()
        subprocess.run([str(part) for part in command], check=True, capture_output=True)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def speed(weigh, folder, runs=5):
    import torch
    runs, folder = int(runs), pathlib.Path(folder)
    folder.mkdir(exist_ok=True)
    checkpoint, out = folder / "pytorch_model.bin", folder / "out.safetensors"
    if not checkpoint.exists():
        weight = lambda *shape: torch.full(shape, 0.5, dtype=torch.float16)
        tensors = {"model.embed_tokens.weight": weight(32000, 2048)}
        for layer in range(22):
            for name, shape in [("q_proj", (2048, 2048)), ("k_proj", (256, 2048)), ("v_proj", (256, 2048)), ("o_proj", (2048, 2048)),
                                ("gate_proj", (5632, 2048)), ("up_proj", (5632, 2048)), ("down_proj", (2048, 5632)), ("norm", (2048,)), ("norm2", (2048,))]:
                tensors[f"model.layers.{layer}.{name}.weight"] = weight(*shape)
        tensors["lm_head.weight"] = weight(32000, 2048)
        torch.save(tensors, checkpoint)
    remove = lambda: out.unlink(missing_ok=True)
    save = ("import sys, torch; from safetensors.torch import save_file; "
            "save_file(torch.load(sys.argv[1], mmap=True, weights_only=True), sys.argv[2], metadata={'format': 'pt'})")
    print(f"{checkpoint.stat().st_size / 1e9:.2f} GB, medians of {runs}")
    rows = [
        ("weigh ls", [weigh, "ls", checkpoint], None), ("weigh info", [weigh, "info", checkpoint], None),
        ("torch.load(mmap=True, weights_only=True)", [sys.executable, "-c", MMAP, checkpoint], None),
        ("python -c 'import torch'", [sys.executable, "-c", "import torch"], None),
        ("cp", ["cp", "--reflink=never", checkpoint, out], remove),
        ("cp and sync", ["sh", "-c", f"cp --reflink=never {checkpoint} {out} && sync {out}"], remove),
        ("weigh convert", [weigh, "convert", checkpoint, out], remove),
        ("torch.load, save_file", [sys.executable, "-c", save, checkpoint, out], remove),
    ]
    for name, command, before in rows:
        print(f"{name:42} {median(runs, command, before):8.3f} s", flush=True)
    remove()


if __name__ == "__main__":
    if len(sys.argv) < 4 or sys.argv[1] not in ("table", "speed"):
        sys.exit(__doc__)
    {"table": table, "speed": speed}[sys.argv[1]](*sys.argv[2:])
