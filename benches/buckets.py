#!/usr/bin/env python3
"""Compares weigh's reports and output for models in a bucket with those for files on disk: `benches/buckets.py [WEIGH]`.

The bucket is moto's S3 on loopback (`pip install 'moto[server]' boto3`): signed requests, listings in pages, a missing object, multipart uploads.
"""
import json
import logging
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

import boto3
from moto.server import ThreadedMotoServer

ROOT = pathlib.Path(__file__).resolve().parent.parent
WEIGH = sys.argv[1] if len(sys.argv) > 1 else ROOT / "target/release/weigh"
FIXTURES = ROOT / "fixtures"
KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1"}


def weigh(*args, code=(0, 1), **environment):
    done = subprocess.run([WEIGH, *map(str, args), "--no-cache", "--quiet"], env={**os.environ, **environment}, capture_output=True, text=True)
    assert done.returncode in code, (args, done.stderr)
    return done


def plain(value):
    """Removes file names from a report."""
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items() if key not in ("path", "file")}
    return [plain(inner) for inner in value] if isinstance(value, list) else value


def main():
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    url = "http://{}:{}".format(*server.get_host_and_port())
    bucket = {"AWS_ENDPOINT_URL": url, "AWS_ALLOW_HTTP": "true", **KEYS}
    s3 = boto3.client("s3", endpoint_url=url, region_name="us-east-1", aws_access_key_id="key", aws_secret_access_key="secret")
    s3.create_bucket(Bucket="models")
    for file in sorted((FIXTURES / "llama-tiny").iterdir()):
        s3.upload_file(str(file), "models", f"org/llama-tiny/{file.name}")
    s3.upload_file(str(FIXTURES / "llama-tiny-q8_0.gguf"), "models", "quant/llama-tiny-q8_0.gguf")
    for number in range(1200):  # more than a page of a listing
        s3.put_object(Bucket="models", Key=f"many/{number:04}.txt", Body=b"")
    s3.upload_file(str(FIXTURES / "llama-tiny/model.safetensors"), "models", "many/model.safetensors")
    for address, file in [
        ("s3://models/org/llama-tiny", "llama-tiny"),
        ("s3://models/org/llama-tiny/model.safetensors", "llama-tiny/model.safetensors"),
        ("s3://models/quant/llama-tiny-q8_0.gguf", "llama-tiny-q8_0.gguf"),
    ]:
        for command in (["info"], ["ls"], ["stats"], ["hash"], ["verify", "--data"]):
            there, here = (
                plain(json.loads(weigh(command[0], path, *command[1:], "--json", **environment).stdout))
                for path, environment in [(address, bucket), (FIXTURES / file, {})]
            )
            assert there == here, (command, address, there, here)
    weigh("ls", "s3://models/many", **bucket)
    assert "no such file" in weigh("ls", "s3://models/none.gguf", code=(2,), **bucket).stderr
    with tempfile.TemporaryDirectory() as name:
        writing(s3, bucket, pathlib.Path(name))
    server.stop()
    print("the bucket's models are the files', read and written")


def keys(s3, prefix):
    found = s3.list_objects_v2(Bucket="models", Prefix=prefix).get("Contents", [])
    return {item["Key"].removeprefix(prefix): s3.get_object(Bucket="models", Key=item["Key"])["Body"].read() for item in found}


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def uploads(s3):
    return s3.list_multipart_uploads(Bucket="models").get("Uploads", [])


def writing(s3, bucket, folder):
    tiny = FIXTURES / "llama-tiny"
    cases = [("a/m.gguf", ["--type", "Q4_K_M"]), ("b/m.gguf", ["--type", "F16", "--shard-size", "20kB"]), ("c/out/", ["--shard-size", "20kB"])]
    for out, args in cases:
        here, prefix = folder / out, out.split("/")[0] + "/"
        here.parent.mkdir(parents=True)
        weigh("convert", tiny, f"{here}/" if out.endswith("/") else here, *args)
        weigh("convert", tiny, f"s3://models/{out}", *args, **bucket)
        assert keys(s3, prefix) == files(folder / prefix), out
        assert "already exists" in weigh("convert", tiny, f"s3://models/{out}", *args, code=(2,), **bucket).stderr
        weigh("convert", tiny, f"s3://models/{out}", *args, "--force", **bucket)
        assert keys(s3, prefix) == files(folder / prefix), out
    for number in (3, 1, 2):
        weigh("convert", tiny, "s3://models/parts/out/", "--shard-size", "20kB", "--part", f"{number}/3", **bucket)
    weigh("convert", "--join", "s3://models/parts/out/", **bucket)
    assert keys(s3, "parts/") == files(folder / "c")
    # Several parts of 8 MiB, and a signal during the upload.
    large = folder / "large.safetensors"
    header = json.dumps({"x": {"dtype": "F32", "shape": [64 << 20], "data_offsets": [0, 256 << 20]}}).encode()
    large.write_bytes(len(header).to_bytes(8, "little") + header + os.urandom(1 << 20) * 256)
    weigh("convert", large, "s3://models/large/whole.safetensors", "--keep-names", **bucket)
    weigh("convert", large, folder / "whole.safetensors", "--keep-names")
    assert keys(s3, "large/") == {"whole.safetensors": (folder / "whole.safetensors").read_bytes()}
    args = [WEIGH, "convert", large, "s3://models/large/ended.safetensors", "--keep-names", "--quiet"]
    child = subprocess.Popen(args, env={**os.environ, **bucket}, stdout=subprocess.DEVNULL)
    while not uploads(s3):
        assert child.poll() is None
        time.sleep(0.01)
    child.send_signal(signal.SIGTERM)
    assert child.wait() == 128 + signal.SIGTERM
    assert list(keys(s3, "large/")) == ["whole.safetensors"]
    assert not uploads(s3)


main()
