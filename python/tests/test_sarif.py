"""The SARIF of `weigh verify` against the schema of OASIS, which is not copied here: SARIF_SCHEMA names a file, or it is downloaded."""

import json
import os
import pathlib
import subprocess
import sys
import urllib.request

import pytest

jsonschema = pytest.importorskip("jsonschema")
SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
FIXTURES = pathlib.Path(__file__).parents[2] / "fixtures"


@pytest.fixture(scope="module")
def schema():
    if path := os.environ.get("SARIF_SCHEMA"):
        return json.loads(pathlib.Path(path).read_bytes())
    try:
        with urllib.request.urlopen(SCHEMA, timeout=10) as response:
            return json.load(response)
    except OSError as error:
        pytest.skip(f"no schema: {error}")


def test_findings_are_valid_sarif(schema, tmp_path):
    gguf = (FIXTURES / "llama-tiny-q8_0.gguf").read_bytes()
    header = b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,9]}}'
    damaged = {
        "cut short.gguf": gguf[:-5000],
        "cut header.gguf": gguf[:700],
        "zeros.gguf": gguf[:-70_000] + bytes(70_000),
        "100%.safetensors": len(header).to_bytes(8, "little") + header + bytes(8),
        "page.gguf": b"<html></html>",
        "empty.gguf": b"",
    }
    for name, content in damaged.items():
        (tmp_path / name).write_bytes(content)
    paths = [*damaged, "absent.gguf", str(FIXTURES / "llama-tiny")]
    command = [os.path.join(os.path.dirname(sys.executable), "weigh"), "verify", *paths, "--data", "--format", "sarif"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True)
    assert done.returncode == 2, done.stderr
    log = json.loads(done.stdout)
    jsonschema.validate(log, schema)
    run = log["runs"][0]
    uris = {place["physicalLocation"]["artifactLocation"]["uri"] for result in run["results"] for place in result["locations"]}
    assert {"cut%20short.gguf", "100%25.safetensors", "page.gguf"} <= uris
    rules = run["tool"]["driver"]["rules"]
    assert all(rules[result["ruleIndex"]]["id"] == result["ruleId"] for result in run["results"])
    assert len(run["invocations"][0]["toolExecutionNotifications"]) == 1
