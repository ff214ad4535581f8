"""Converts a model on the machines of a Ray cluster: each task writes one part, then the parts are joined.

    python ray_convert.py --parts 8 INPUT OUTPUT -- --type Q4_K_M --shard-size 5GB

INPUT and OUTPUT are on a file system that all machines share. A task that is lost with its machine is run again by Ray.
"""

import argparse
import json
import os
import subprocess

import ray

WEIGH = os.environ.get("WEIGH", "weigh")


@ray.remote(max_retries=3)
def write_part(source, out, options, number, parts):
    # --force replaces what an earlier try of this part has left, and nothing else.
    command = [WEIGH, "convert", source, out, *options, "--part", f"{number}/{parts}", "--force", "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return json.loads(done.stdout)


def main():
    arguments = argparse.ArgumentParser(description="Convert a model in parts on a Ray cluster.")
    arguments.add_argument("--parts", type=int, default=8)
    arguments.add_argument("--cpus", type=float, default=1, help="cores of one part")
    arguments.add_argument("source")
    arguments.add_argument("out")
    arguments.add_argument("options", nargs="*", help="options of weigh convert, --shard-size among them, after --")
    given = arguments.parse_args()
    source, out = os.path.abspath(given.source), os.path.abspath(given.out)
    if given.out.endswith("/"):
        out += "/"  # a folder
    ray.init()
    part = write_part.options(num_cpus=given.cpus)
    running = [part.remote(source, out, given.options, number, given.parts) for number in range(1, given.parts + 1)]
    while running:
        finished, running = ray.wait(running)
        for report in ray.get(finished):
            print(f"part {report['part']} of {report['parts']}: {report['shards']} files, {report['bytes_out']} bytes")
    subprocess.run([WEIGH, "convert", "--join", out], check=True)


if __name__ == "__main__":
    main()
