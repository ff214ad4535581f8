#!/usr/bin/env python3
"""Compares weigh with other tools that open or scan PyTorch checkpoints.

usage: pytorch.py table WEIGH SCANNERS [HOSTILE]     who opens and who warns of what
       pytorch.py speed WEIGH FOLDER [RUNS]          medians of listing and converting a checkpoint of 2.2 GB

SCANNERS: the bin/ folder of an environment with picklescan, fickling and modelscan. HOSTILE: a folder with manifest.json, whose cases of format
`pytorch` are counted. Run it with a Python that has PyTorch and safetensors. Nothing is loaded with weights_only=False.
"""

import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

FIXTURES = pathlib.Path(__file__).resolve().parents[2] / "fixtures/pytorch"
ORDINARY = """zip.pt legacy.pt old.tar.pt protocol-5.pt bare-2.pkl bare-4.pkl tensor.pt views.pt dtypes.pt quantised.pt sparse.pt lightning.ckpt
deepspeed.pt fairseq.pt ema.pt module.pt module-legacy.pt torchscript.pt deflated.pt big-endian.pt""".split()
# Each takes paths and prints one verdict per line.
LOAD = """
import sys, warnings, torch
warnings.simplefilter('ignore')
for path in sys.argv[1:]:
    try: torch.load(path, weights_only=True, **OPTIONS); print('opens')
    except Exception: print('refuses')
"""
PICKLESCAN = """
import sys, logging
from picklescan.scanner import scan_file_path
logging.disable()
for path in sys.argv[1:]:
    try:
        found = scan_file_path(path)
        print('warned' if found.issues_count else 'failed' if found.scan_err else 'clean')
    except Exception: print('failed')
"""
FICKLING = """
import sys, zipfile
from fickling.analysis import check_safety, Severity
from fickling.fickle import StackedPickle
for path in sys.argv[1:]:
    try:
        data = open(path, 'rb').read()
        if zipfile.is_zipfile(path):
            archive = zipfile.ZipFile(path)
            data = archive.read(next(name for name in archive.namelist() if name.endswith('data.pkl')))
        found = [check_safety(one).severity for one in StackedPickle.load(data)]
        print('clean' if found and all(severity <= Severity.LIKELY_SAFE for severity in found) else 'warned')
    except Exception: print('failed')
"""
MODELSCAN = """
import sys, logging
from modelscan.modelscan import ModelScan
logging.disable()
for path in sys.argv[1:]:
    try:
        found = ModelScan().scan(path)
        nothing = not found['summary']['scanned']['total_scanned'] or found['errors']
        print('warned' if found['summary']['total_issues'] else 'failed' if nothing else 'clean')
    except Exception: print('failed')
"""


def verdicts(python, code, paths):
    code = code.replace("print(", "print('verdict', ")  # the libraries print as well
    lines = subprocess.run([str(python), "-c", code, *map(str, paths)], capture_output=True, text=True).stdout.splitlines()
    found = [line.split()[-1] for line in lines if line.startswith("verdict ")]
    return found if len(found) == len(paths) else ["?"] * len(paths)


def status(seen, *command):
    """Returns the exit status of weigh, and adds it and the peak memory in MB to those seen."""
    process = subprocess.Popen([str(part) for part in command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, found, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(found)
    seen.append((process.returncode, used.ru_maxrss / 1024))
    return process.returncode


def table(weigh, scanners, hostile=None):
    python = pathlib.Path(scanners) / "python"
    sets = {"ordinary": [FIXTURES / name for name in ORDINARY]}
    if hostile:
        folder = pathlib.Path(hostile)
        cases = [case for case in json.loads((folder / "manifest.json").read_text()) if case["format"] == "pytorch"]
        sets["unusual, sound"] = [folder / case["file"] for case in cases if case["valid"]]
        sets["harmful"] = [folder / case["file"] for case in cases if not case["valid"] and case["expect"] == "unsafe"]
        sets["damaged"] = [folder / case["file"] for case in cases if not case["valid"] and case["expect"] != "unsafe"]
    details, seen = [], []
    for title, paths in sets.items():
        columns = {
            "weigh ls": [{0: "opens"}.get(status(seen, weigh, "ls", path), "refuses") for path in paths],
            "torch.load": verdicts(sys.executable, LOAD.replace("OPTIONS", "{}"), paths),
            "torch.load mmap": verdicts(sys.executable, LOAD.replace("OPTIONS", "{'mmap': True}"), paths),
            "weigh verify": [{0: "clean", 1: "warned"}.get(status(seen, weigh, "verify", path), "failed") for path in paths],
            "picklescan": verdicts(python, PICKLESCAN, paths),
            "modelscan": verdicts(python, MODELSCAN, paths),
            "fickling": verdicts(python, FICKLING, paths),
        }
        print(f"\n{title} ({len(paths)})")
        for tool, column in columns.items():
            print(f"  {tool:16}", ", ".join(f"{column.count(word)} {word}" for word in sorted(set(column))), flush=True)
        details += [(path.name, *row) for path, row in zip(paths, zip(*columns.values()))]
    print("\nweigh: exit statuses", *sorted({status for status, _ in seen}), f"and at most {max(used for _, used in seen):.0f} MB")
    for row in details:
        print(*row, sep="\t")


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
        ("torch.load(mmap=True, weights_only=True)", [sys.executable, "-c", LOAD.replace("OPTIONS", "{'mmap': True}"), checkpoint], None),
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
