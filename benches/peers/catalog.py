"""Catalogues a thousand models, queries the tables with DuckDB, and compares the answers with weigh's reports on each model.

    python3 benches/peers/catalog.py --weigh target/release/weigh --work /tmp/weigh-catalog

Runs the queries of docs/catalog.md as they stand there. DuckDB comes from PyPI, into the work folder.
"""

import argparse
import collections
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import venv

ROOT = pathlib.Path(__file__).resolve().parents[2]
LICENCES = ["mit", "apache-2.0", "llama3.2", None]


def collection(models, count):
    """Creates models from the fixtures: folders and GGUF files, some with the same weights."""
    fixtures = ROOT / "fixtures"
    weights = (fixtures / "llama-tiny/model.safetensors").read_bytes()
    gguf = (fixtures / "llama-tiny-q8_0.gguf").read_bytes()
    for number in range(count):
        folder = models / f"org{number % 10}" / f"model{number}"
        folder.mkdir(parents=True)
        # Every second one has its own weights; the others share those of a fixture.
        own = number % 2 == 0
        if number % 3:
            data = bytearray(weights)
            if own:
                data[-4:] = number.to_bytes(4, "little")
            (folder / "model.safetensors").write_bytes(data)
            for name in ["config.json", "tokenizer.json", "tokenizer_config.json"]:
                shutil.copy(fixtures / "llama-tiny" / name, folder)
            licence = LICENCES[number % len(LICENCES)]
            if licence:
                (folder / "README.md").write_text(f"---\nlicense: {licence}\n---\n")
        else:
            data = bytearray(gguf)
            if own:
                data[-4:] = number.to_bytes(4, "little")
            (folder / "model.gguf").write_bytes(data)
    (models / "broken.gguf").write_bytes(b"GGUF")


def run(command, **more):
    return subprocess.run([str(word) for word in command], check=True, text=True, capture_output=True, **more).stdout


def timed(command):
    """Runs a command, which may exit with status 1; returns its JSON, seconds, and peak memory in MB."""
    done = subprocess.run(["/usr/bin/time", "-v", *map(str, command)], text=True, capture_output=True)
    assert done.returncode in (0, 1), done.stderr
    elapsed = re.search(r"Elapsed .*: (?:(\d+):)?(\d+):([\d.]+)", done.stderr).groups()
    seconds = sum(float(part or 0) * factor for part, factor in zip(elapsed, (3600, 60, 1)))
    return json.loads(done.stdout), seconds, int(re.search(r"Maximum resident .*: (\d+)", done.stderr)[1]) / 1000


def queries(work):
    """Returns the queries of docs/catalog.md, by the comment before each."""
    text = (ROOT / "docs/catalog.md").read_text()
    block = re.search(r"```sql\n(-- the largest models.*?)```", text, re.S)[1]
    found = re.findall(r"-- (.*)\n(.*);", block)
    return {title.split(" (")[0]: query.replace("catalog/", f"{work}/catalog/") for title, query in found}


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--weigh", type=pathlib.Path, default=ROOT / "target/release/weigh")
    arguments.add_argument("--work", type=pathlib.Path, default=pathlib.Path("/tmp/weigh-catalog"))
    arguments.add_argument("--count", type=int, default=1000)
    given = arguments.parse_args()
    weigh, work = given.weigh.resolve(), given.work
    for name in ["models", "catalog"]:
        shutil.rmtree(work / name, ignore_errors=True)
    python = work / "venv/bin/python"
    if not python.exists():
        venv.create(work / "venv", with_pip=True)
        run([python, "-m", "pip", "install", "-q", "duckdb"])
    if pathlib.Path(sys.prefix).resolve() != (work / "venv").resolve():
        os.execv(python, [str(python), *sys.argv, *([] if "--weigh" in sys.argv else ["--weigh", str(weigh)])])
    import duckdb

    models = work / "models"
    collection(models, given.count)
    catalog = [weigh, "catalog", models, "-o", work / "catalog", "--json"]
    for what, more in [("all models", []), ("nothing changed", []), ("--content", ["--content"]), ("nothing changed", ["--content"])]:
        report, seconds, memory = timed(catalog + more)
        print(f"{what}: {report['models']} models, {report['tensors']} tensors, {report['read']} read, {seconds:.2f} s, {memory:.0f} MB")
    assert (report["models"], report["errors"]) == (given.count + 1, 1), report

    facts = {}
    for path in sorted(path for path in models.glob("*/*")):
        path = path / "model.gguf" if (path / "model.gguf").exists() else path
        facts[str(path)] = json.loads(run([weigh, "info", path, "--json"]))
        facts[str(path)]["content"] = json.loads(run([weigh, "hash", "--content", "--no-tensors", path, "--json"]))["model"]
        facts[str(path)]["tensors"] = json.loads(run([weigh, "ls", path, "--json"]))["tensors"]

    largest = sorted(facts.items(), key=lambda row: (-row[1]["parameters"], row[0]))[:10]
    same = collections.defaultdict(list)
    licences = collections.Counter(fact["license"] or "not stated" for fact in facts.values())
    types = collections.defaultdict(lambda: [0, 0])
    for path, fact in facts.items():
        same[fact["content"]].append(path)
        for tensor in fact["tensors"]:
            types[tensor["dtype"]][0] += 1
            types[tensor["dtype"]][1] += tensor["bytes"]
    expected = {
        "the largest models": [(fact["name"], fact["parameters"], fact["bytes"]) for _, fact in largest],
        "the same weights under several names": sorted((content, sorted(paths)) for content, paths in same.items() if len(paths) > 1),
        "licences": sorted(licences.items()),
        "bytes by type of tensor": sorted((dtype, *sums) for dtype, sums in types.items()),
    }
    found = queries(work)
    assert found.keys() == expected.keys(), found.keys()
    for title, query in found.items():
        rows = [tuple(row) for row in duckdb.sql(query).fetchall()]
        wrong = [pair for pair in zip(rows, expected[title]) if pair[0] != pair[1]]
        assert rows == expected[title], f"{title}: {len(rows)} rows instead of {len(expected[title])}; {str(wrong[:1])[:500]}"
        print(f"{title}: {len(rows)} rows, as weigh says")


if __name__ == "__main__":
    main()
