#!/usr/bin/env python3
"""Compares what weigh says of models in a bucket with what it says of the files: `benches/buckets.py [WEIGH]`.

The bucket is moto's S3 on loopback (`pip install 'moto[server]'`): signed requests, listings in pages, a public and a missing object.
"""
import json
import logging
import os
import pathlib
import sys
import subprocess

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
    """Without the names of files."""
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
    server.stop()
    print("the bucket's models are the files'")


main()
