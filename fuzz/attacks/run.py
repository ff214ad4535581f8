#!/usr/bin/env python3
"""Attacks on a weigh binary: python3 fuzz/attacks/run.py WEIGH [--quick] [--llama LIBRARY] [--sanitized BINARY] [--advisories CLONE] [ATTACK ...]

Each attack is a function below. It makes its files in a folder of its own and yields, run by run, None or what was wrong. At the end there is
a table: attack, runs, result. Exit status 1 where something was wrong. What a machine lacks (strace, root, a Python package) is skipped,
and the table says so. --llama compares with gguf_init_from_file of llama.cpp's libggml-base.so.
--sanitized is a second binary, built with AddressSanitizer:

    RUSTC_BOOTSTRAP=1 RUSTFLAGS=-Zsanitizer=address cargo build --release --target x86_64-unknown-linux-gnu --bin weigh --target-dir /tmp/sanitized
"""

import argparse
import base64
import ctypes
import hashlib
import html.parser
import itertools
import json
import mmap
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import xml.etree.ElementTree

from browser import Browser
from models import *

ATTACKS = {}
ARGS = argparse.Namespace()
AS_LIMIT = 12 << 30
TIME = 120
ARCH = ("general.architecture", STRING, "llama")


class Skip(Exception):
    """The machine lacks what an attack needs."""


def attack(function):
    ATTACKS[function.__name__] = function
    return function


def some(items, quick):
    """All of them, or every n-th so that about `quick` are left."""
    items = list(items)
    return items[:: max(1, len(items) // quick)] if ARGS.quick else items


def run(*arguments, cwd=None, prefix=(), limit=AS_LIMIT, timeout=TIME, **more):
    """Runs weigh for at most so many seconds of a processor; the status is 'timeout' where it does not end at all."""
    limits = ["prlimit", f"--cpu={timeout}", *([f"--as={limit}"] if limit else [])]
    command = [*(prefix or limits), ARGS.weigh, *map(str, arguments)]
    try:
        return subprocess.run(command, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, timeout=10 * timeout, **more)
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, "timeout", b"", b"")


def wrong(done, allowed=(0, 1, 2), what=""):
    """What is wrong with how a run ended: a panic (101), a signal, a hang."""
    said = done.stderr.decode(errors="replace")
    if done.returncode not in allowed or "panicked" in said:
        return f"{what or ' '.join(map(str, done.args))[-160:]}: status {done.returncode}: {said[:200]!r}"
    return None


def left_over(folder):
    return [name for name in os.listdir(folder) if name.startswith(".weigh")]


def digest(path):
    return hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()


def content(path):
    """What a model is, as a reader sees it: its name, the hashes of its tensors. Recovers an interrupted edit where reading asks for that."""
    for recover in (False, True):
        if recover:
            run("meta", path, "--recover")
        hashes, name = run("hash", path, "--json"), run("meta", path, "get", "general.name")
        if hashes.returncode == 0:
            tensors = [(tensor["name"], tensor["hash"]) for tensor in json.loads(hashes.stdout)["tensors"]]
            return tensors, name.stdout.decode().strip()
    return f"does not open: {hashes.stderr.decode()[:200]}"


# ---- system calls

CALLS = ["openat", "read", "write", "pwrite64", "copy_file_range", "fsync", "fdatasync", "rename", "renameat2", "linkat", "unlink", "unlinkat", "ftruncate",
         "flock", "statfs", "fstatfs", "chmod", "fchmod", "fchown", "mmap", "munmap", "clone3", "statx", "fstat", "getdents64", "close", "rt_sigaction", "futex"]


def scenes(folder):
    """Three runs that write: an edit that fits, one that does not, a conversion over an old set. (name, arguments, model, old, new)"""
    tensors = [(f"t{i}", (64,), floats(*(float(i + j) for j in range(64)))) for i in range(4)]
    for name, new in [("edit", "new"), ("longer edit", "n" * 4096)]:
        model = folder / "m.gguf"
        yield name, ["meta", model, "set", f"general.name=string:{new}", "--in-place"], model, \
            gguf([ARCH, ("general.name", STRING, "old")], tensors), {"old", new}
    source = folder / "in.gguf"
    source.write_bytes(gguf([ARCH, ("general.name", STRING, "new")], tensors))
    model = folder / "out.gguf"
    yield "convert", ["convert", source, model, "--force"], model, gguf([ARCH, ("general.name", STRING, "old")], tensors), {"old", "new"}


def injected(folder, inject, calls, ended):
    """Every scene, with something injected at every call, until a run has fewer calls than that."""
    if not shutil.which("strace"):
        raise Skip("no strace")
    log = folder / "log"
    for name, arguments, model, old, names in scenes(folder):
        model.write_bytes(old)
        before, _ = content(model)
        tidied = lambda: run(*arguments).returncode == 0 and not left_over(folder)  # the next run removes what could not be removed
        for call in calls:
            for when in itertools.count(1):
                model.write_bytes(old)
                for left in left_over(folder):
                    os.unlink(folder / left)
                done = run(*arguments, prefix=["strace", "-f", "-qq", "-o", str(log), "-e", f"trace={call}", "-e", f"inject={call}:{inject}:when={when}"])
                if "(INJECTED)" not in log.read_text(errors="replace") and "+++ killed" not in log.read_text(errors="replace") \
                        and "--- SIG" not in log.read_text(errors="replace"):
                    break
                what = f"{name}: {inject} at {call} {when}"
                left, after = left_over(folder), content(model)
                if isinstance(after, str) or after[0] != before or after[1] not in names:
                    yield f"{what}: neither the old file nor the new one: {str(after)[:200]}"
                elif ended(done) is not None:
                    yield f"{what}: {ended(done)}"
                elif left and "KILL" not in inject and not any("undo" in name for name in left) and not ("error" in inject and "unlink" in call and tidied()):
                    yield f"{what}: left {left}"
                else:
                    yield None
                if when >= (3 if ARGS.quick else 400):
                    break


@attack
def signals(folder):
    """SIGKILL, TERM, INT and HUP at every system call of edits and of a conversion over an old file."""
    for name in some(["SIGKILL", "SIGTERM", "SIGINT", "SIGHUP"], 2):
        yield from injected(folder, f"signal={name}", some(CALLS, 10), lambda done: None)


@attack
def errors(folder):
    """An error of every system call of the same. Whatever fails in the loader, before weigh runs, is not weigh's (127)."""
    for error in some(["ENOSPC", "EIO", "EINTR", "EMFILE", "EACCES", "ENOMEM", "EAGAIN", "EXDEV", "ENOLCK"], 2):
        calls = [call for call in CALLS if call not in ("rt_sigaction", "futex", "close", "munmap", "mmap", "read")]
        yield from injected(folder, f"error={error}", some(calls, 8), lambda done: wrong(done, (0, 2, 127)))


@attack
def interrupted_edit(folder):
    """SIGINT at many moments of an edit of a large header."""
    model = folder / "m.gguf"
    old = gguf([ARCH, ("general.name", STRING, "old"), ("x", ARRAY, (U8, bytes(30_000_000)))], [("t", (1,), floats(1.0))])
    model.write_bytes(old)
    before, _ = content(model)
    for moment in some(range(24), 6):
        model.write_bytes(old)
        command = ["env", "--default-signal=INT", ARGS.weigh, "meta", str(model), "set", "general.name=string:new", "--in-place"]
        edit = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(moment * 0.01)
        edit.send_signal(signal.SIGINT)
        edit.wait(TIME)
        after = content(model)
        yield None if after[0] == before and after[1] in ("old", "new") else f"after {moment * 10} ms: {after}"


@attack
def full_disks(folder):
    """Disks that are too small, fill up, are full or read-only; a limit on the size of files; what may not be written, by its mode or by chattr."""
    os.chmod(folder, 0o755)
    place, source = folder / "place", folder / "in.gguf"
    (folder / "m.gguf").write_bytes(gguf([ARCH, ("general.name", STRING, "old")], [("t", (100_000,), bytes(400_000))]))
    source.write_bytes(gguf([ARCH, ("general.name", STRING, "new")], [("t", (100_000,), floats(*[0.5] * 100_000))]))
    edit = lambda name: ["meta", "m.gguf", "set", f"general.name=string:{name}", "--in-place"]
    uses = [["convert", source, "out.gguf"], ["convert", source, "out.gguf", "--shard-size", "1KB"], ["convert", source, "m.gguf", "--force"], edit("new"), edit("n" * 4096), ["report", source, "-o", "page.html"], ["hist", source, "t", "-o", "t.svg"]]
    # What is done in the folder before (77: this cannot be had here), what weigh runs under, what is done after, and whether some use must fail.
    nobody, at = "setpriv --reuid=65534 --regid=65534 --clear-groups", 'cd "$PWD" && cp ../m.gguf .'
    tmpfs = lambda options, more=":": (f'mount -t tmpfs -o {options} none "$PWD" && {at} || exit 77; {more}', "", ":", not more.startswith("{"))
    flag = lambda kind, what: (f"{at}; chattr +{kind} {what} 2>/dev/null || exit 77", "", f"chattr -{kind} {what}", True)
    limits = {f"files of {size} bytes": (at, f"prlimit --fsize={size}", ":", True) for size in (1, 24, 4096, 32_768, 100_000, 399_000)}
    others = {
        **{f"tmpfs of {size}k": tmpfs(f"size={size}k") for size in (404, 408, 412, 420, 452, 600, 780)},
        **{f"tmpfs that fills after {delay} ms": tmpfs("size=1m", f"{{ sleep {delay / 1000}; head -c 4m /dev/zero > fill; }} 2>/dev/null & :") for delay in (0, 1, 2, 4, 8, 16)},
        "full tmpfs": tmpfs("size=1m", "head -c 4m /dev/zero > fill 2>/dev/null"), "read-only tmpfs": tmpfs("size=4m", 'mount -o remount,ro "$PWD"'), "tmpfs without a file more": tmpfs("size=4m,nr_inodes=2"),
        "tmpfs for one file more": tmpfs("size=4m,nr_inodes=3"), "a folder that is immutable": flag("i", "."), "a file that is immutable": flag("i", "m.gguf"), "a file that only grows": flag("a", "m.gguf"),
        "the folder of another": (f"{at}; chmod 755 .", nobody, ":", True), "the file of another": (f"{at}; chmod 777 .", nobody, ":", False), "a folder for all, with the file of another": (f"{at}; chmod 1777 .", nobody, ":", True),
        "the private file of another": (f"{at}; chmod 777 .; chmod 600 m.gguf", nobody, ":", True), "a folder without write permission": (f"{at}; chown 65534 . m.gguf; chmod 555 .", nobody, ":", True),
        "a file without write permission": (f"{at}; chown 65534 . m.gguf; chmod 444 m.gguf", nobody, ":", False),
    }
    if os.geteuid() != 0:
        print("    not root: only limits on the size of files", file=sys.stderr)
    for condition, (before, under, after, bites) in {"no limit": (at, "", ":", False), **limits, **(others if os.geteuid() == 0 else {})}.items():
        refused = 0
        for number, use in enumerate(uses):
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir()
            script = f'{before}; {under} timeout 60 "$@" > /dev/null; status=$?; {after}; find . -type f ! -name fill -exec sha256sum {{}} +; exit $status'
            done = subprocess.run([*(["unshare", "-m"] if os.geteuid() == 0 else []), "sh", "-c", script, "sh", ARGS.weigh, *use], cwd=place, capture_output=True)
            if done.returncode == 77:
                print(f"    {condition}: not to be had here", file=sys.stderr)
                bites = False
                break
            found = dict(line.split()[::-1] for line in done.stdout.decode().splitlines())
            if condition == "no limit":
                made = [*made, found] if number else [found]
            refused += done.returncode == 2
            expected = made[number] if done.returncode == 0 else {"./m.gguf": digest(folder / "m.gguf")}
            yield wrong(done, (0,) if condition == "no limit" else (0, 2), f"{condition}, {use[0]}") or (None if found == expected else f"{condition}, {use[:2]}: status {done.returncode}, left {found}")
        if bites:
            yield None if refused else f"{condition}: nothing was refused"


# ---- files that change, runs beside each other

def meanwhile(work, change):
    """Runs `change` again and again while `work` runs."""
    stop = threading.Event()

    def loop():
        while not stop.is_set():
            change()
    thread = threading.Thread(target=loop)
    thread.start()
    try:
        return work()
    finally:
        stop.set()
        thread.join()


@attack
def inputs_change(folder):
    """Inputs are truncated, grown, replaced, removed or scribbled on while they are read."""
    model, rounds = folder / "m.gguf", 2 if ARGS.quick else 8
    body = os.urandom(4 << 20)
    good = gguf([ARCH], [(f"t{i}", (1 << 18,), body[i << 20:(i + 1) << 20]) for i in range(4)])

    def replace():
        (folder / "other").write_bytes(good[::-1])
        os.replace(folder / "other", model)

    def scribble():
        with open(model, "r+b") as file:
            file.seek(random.randrange(len(good)))
            file.write(os.urandom(4096))
    changes = {
        "truncated": lambda: (os.truncate(model, random.randrange(len(good))), time.sleep(0.01), model.write_bytes(good)),
        "grown": lambda: open(model, "ab").write(bytes(4096)), "replaced": replace, "scribbled": scribble,
        "removed": lambda: (model.unlink(missing_ok=True), time.sleep(0.005), model.write_bytes(good)),
    }
    commands = [["stats"], ["hash"], ["verify", "--data"], ["diff", model], ["report", "-o", folder / "page", "--force"], ["convert", "--type", "Q8_0", "--force"]]
    for (name, change), command, _ in itertools.product(changes.items(), commands, range(rounds)):
        model.write_bytes(good)
        more = [folder / "out.gguf"] if command[0] == "convert" else []
        done = meanwhile(lambda: run(command[0], model, *more, *command[1:]), change)
        left = left_over(folder)
        yield wrong(done, what=f"{name}, {command[0]}") or (f"{name}, {command[0]}: left {left}" if left else None)
        for path in left:
            os.unlink(folder / path)


@attack
def headers_flip(folder):
    """Names of a header stop to be UTF-8, and are it again, while it is parsed: a name's last character starts one that goes on past the name's end."""
    name = "é" * 20
    files = {"m.safetensors": safetensors([(f"{i}{name}", (1,), floats(1.0)) for i in range(20_000)]),
             "m.gguf": gguf([ARCH, ("k", STRING, name)], [(f"{i}{name}", (1,), floats(1.0)) for i in range(20_000)])}
    for (file, good), command in itertools.product(files.items(), (["ls"], ["ls", "--json"], ["hash"], ["verify"])):
        path = folder / file
        path.write_bytes(good)
        last = "é".encode() + (b'"' if file == "m.safetensors" else b"\x01\x00\x00\x00")
        with open(path, "r+b") as target, mmap.mmap(target.fileno(), 0) as view:
            def flip():
                for body, most in ((good.replace(last, b"\xf4" + last[1:]), 0.002), (good, 0.006)):
                    view[:] = body
                    time.sleep(random.random() * most)
            for _ in range(5 if ARGS.quick else 220):
                done = meanwhile(lambda: run(command[0], path, *command[1:]), flip)
                try:
                    done.stdout.decode()
                    yield wrong(done, what=f"{file}, {command}")
                except UnicodeDecodeError:
                    yield f"{file}, {command}: output that is not UTF-8"


def beside(*commands):
    runs = [subprocess.Popen([ARGS.weigh, *map(str, command)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) for command in commands]
    return [(run.communicate(timeout=TIME)[1], run.returncode)[1] for run in runs]


@attack
def edits_beside_each_other(folder):
    """Two edits of one file at once: both arrive, and no tensor changes."""
    model = folder / "m.gguf"
    tensors = [(f"t{i}", (256,), os.urandom(1024)) for i in range(40)]
    for number in range(20 if ARGS.quick else 750):
        model.write_bytes(gguf([ARCH, ("a", STRING, "-"), ("b", STRING, "-")], tensors))
        before, _ = content(model)
        long = "x" * (5000 if number % 2 else 1)  # one that does not fit becomes a new file
        statuses = beside(["meta", model, "set", "a=string:1", "--in-place"], ["meta", model, "set", f"b=string:{long}", "--in-place"])
        after = content(model)
        values = [run("meta", model, "get", key, "--full").stdout.decode().strip() for key in "ab"]
        arrived = [values[0] == "1", values[1] == long]
        lost = [status == 0 and not there for status, there in zip(statuses, arrived)]
        if after[0] != before or any(lost) or any(status not in (0, 2) for status in statuses):
            yield f"round {number}: statuses {statuses}, arrived {arrived}, tensors {'equal' if after[0] == before else 'CHANGED'}"
        else:
            yield None


@attack
def conversions_into_one_set(folder):
    """Two conversions into one folder at once, with and without --force: one set, never a mixture."""
    for force, number in itertools.product(([], ["--force"]), range(5 if ARGS.quick else 130)):
        for side in ("1", "2"):
            tensors = [(f"t{i}", (64,), floats(*[float(side)] * 64)) for i in range(12)]
            (folder / f"{side}.gguf").write_bytes(gguf([ARCH, ("general.name", STRING, side)], tensors))
        out = folder / "out"
        shutil.rmtree(out, ignore_errors=True)
        commands = [["convert", folder / f"{side}.gguf", out, "--keep-names", "--shard-size", "1KB", *force] for side in ("1", "2")]
        statuses = beside(*commands)
        what, verdict = f"force {bool(force)}, {number}: {statuses}", run("verify", out)
        values = {row["min"] for row in json.loads(run("stats", out, "--json").stdout or b'{"tensors": []}')["tensors"]}
        if verdict.returncode != 0 or len(values) != 1 or (not force and sorted(statuses) != [0, 2]):
            yield f"{what}: values {values}, verify {verdict.returncode}"
        else:
            yield f"{what}: left {left_over(out)}" if left_over(out) else None


@attack
def output_is_an_input(folder):
    """The output is an input: by its name, a link, a hard link, a folder's link, a bind mount; or would remove one."""
    def fresh():
        shutil.rmtree(folder / "x", ignore_errors=True)
        inside = llama_folder(folder / "x" / "in")
        (folder / "x/other").mkdir()
        run("convert", inside, folder / "x/set/", "--shard-size", "2KB")
        os.link(inside / "model.safetensors", folder / "x/hard.safetensors")
        os.symlink(inside / "model.safetensors", folder / "x/soft.safetensors")
        os.symlink(inside, folder / "x/link")
        for name in ("model_backup.safetensors", "model-lora.safetensors", "model.fp16.safetensors"):
            (folder / "x/other" / name).write_bytes(b"precious")
        return {path: digest(path) for path in (folder / "x").rglob("*.safetensors*") if "other/model.safe" not in str(path)}

    inside = folder / "x/in"
    cases = [(inside, inside), (inside, inside / "model.safetensors"), (inside, folder / "x/hard.safetensors"), (inside, folder / "x/soft.safetensors"),
             (inside, folder / "x/link"), (inside, folder / "x/link/model.safetensors"), (folder / "x/set", folder / "x/set"),
             (folder / "x/set", folder / "x/set/model-00001-of-00004.safetensors"), (folder / "x/set/model.safetensors.index.json", folder / "x/set"),
             (inside / "model.safetensors", folder / "x/other")]
    for (source, out), more in itertools.product(cases, (["--force"], ["--force", "--shard-size", "2KB"], ["--force", "--type", "F16"])):
        before = fresh()
        done = run("convert", source, out, *more)
        changed = [str(path) for path, old in before.items() if not path.exists() or digest(path) != old]
        yield wrong(done, (0, 2)) or (f"{source} -> {out} {more}: changed {changed}" if changed else None)
    if os.geteuid() == 0:
        before = fresh()
        mount = folder / "x/mount"
        mount.mkdir()
        for name in ("config.json", "tokenizer.json"):  # the weights alone: nothing else is there to be refused
            (folder / "x/set" / name).unlink()
        script = 'mount --bind "$1" "$2" && exec "$0" convert "$1" "$2" --force --type F16'
        subprocess.run(["unshare", "-m", "sh", "-c", script, ARGS.weigh, folder / "x/set", mount], capture_output=True, timeout=TIME)
        changed = [str(path) for path, old in before.items() if not path.exists() or digest(path) != old]
        yield f"bind mount: changed {changed}" if changed else None


# ---- what is no file, and paths

@attack
def no_files(folder):
    """FIFOs, devices, /proc, folders and circles of links in the place of every file."""
    os.mkfifo(folder / "fifo")
    os.symlink("circle", folder / "circle")
    model = folder / "m.gguf"
    model.write_bytes(gguf([ARCH], [("t", (1,), floats(1.0))]))
    for odd in (folder / "fifo", "/dev/zero", "/dev/null", "/proc/self/mem", "/proc/self/maps", "/sys", folder, folder / "circle", "/dev/full", "/nonexistent"):
        uses = [["info", odd], ["ls", odd], ["hash", odd], ["diff", model, odd], ["convert", odd, folder / "o.gguf"], ["hash", model, "--check", odd],
                ["verify", model, "--manifest", odd], ["convert", model, folder / "o.gguf", "--imatrix", odd], ["convert", model, folder / "o.gguf", "--arch-table", odd],
                ["meta", model, "set", f"a=@{odd}", "--dry-run"]]
        uses += [["convert", model, odd], ["report", model, "-o", odd]] if odd not in (folder, "/nonexistent") else []
        for use in uses:
            yield wrong(run(*use, timeout=20), (0, 1, 2, 4, 5))
            (folder / "o.gguf").unlink(missing_ok=True)
        for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors.index.json", "generation_config.json"):
            inside = folder / "in"
            shutil.rmtree(inside, ignore_errors=True)
            llama_folder(inside)
            (inside / name).unlink(missing_ok=True)
            os.symlink(odd, inside / name)
            yield wrong(run("convert", inside, folder / "o.gguf", "--force", timeout=20))


SECRET = 1_000_003  # bytes: a number that is in what shows a model of so many, and in nothing else


@attack
def traversal(folder):
    """Names and links that lead out of a model: in an index, a Hugging Face cache, an Ollama store, a split GGUF, a list of modules."""
    home, layer = folder / "home", "application/vnd.ollama.image.model"
    inside, out, path = home / "in", home / "out", pathlib.Path
    other, secret = safetensors([("o", (1,), floats(1.0))]), safetensors([("t", (SECRET,), bytes(SECRET))], None, "U8")
    bytes_ = ("t", (SECRET,), bytes(SECRET), GGML["I8"])
    split = lambda no, *tensors, count=(U16, 2): gguf([ARCH, ("split.no", U16, no), ("split.count", *count), ("split.tensors.count", I32, 2)], tensors)
    one, two = split(0, ("o", (1,), floats(1.0))), split(1, bytes_)
    names = ["../out", "./../out", str(out), "a/../../out", "good/../../out", "..\\out", "....//out", "%2e%2e/out", "．．/out", " ../out", "../out\x00", "..", ".", "", "/", "a/../../../../../../etc/passwd",
             "/etc/passwd", "/dev/zero", "/proc/self/environ", "~/.netrc", "file:///etc/passwd", "http://localhost/x", "\x00", "a\x00b", "C:\\x", "\\\\host\\share", "a" * 5000, "link"]
    files = lambda ending: [name + ending if name.endswith(("out", "link")) else name for name in names]
    # What has the name, names that stay inside, names that do not, what else is in the folder (a path is a link to it), and the files of a name.
    places = [
        ("an index", ["good.safetensors", "sub/good.safetensors"], [*files(".safetensors"), "linked/model.safetensors"],
         {"good.safetensors": secret, "sub/good.safetensors": secret, "link.safetensors": path("../out.safetensors"), "linked": out}, lambda name: {"model.safetensors.index.json": {"weight_map": {"t": name}}}),
        ("refs/main", ["good", "good\n"], [*names, "../snapshots/../../out", "good/../../../out", "../snapshots/link", "\udcff"],
         {"snapshots/good/model.safetensors": secret, "snapshots/other/model.safetensors": other, "snapshots/link": out}, lambda name: {"refs/main": name.encode(errors="surrogateescape")}),
        ("a snapshot", ["../good"], [str(out), "../../out", "../..", "/", "../snapshots/../../out"], {"good/model.safetensors": secret, "blobs/x": other},
         lambda name: {"snapshots/ab": path(name)} if name != "../good" else {"snapshots/ab/model.safetensors": secret}),
        ("a link of a snapshot", ["../../blobs/b"], ["../../../out.safetensors", f"{out}.safetensors", "../../blobs/../../out.safetensors", "../../blobs/hop", "../../blobs/circle", "../../blobs", "gone", "/dev/zero", "/etc/passwd", "/proc/self/environ"],
         {"blobs/b": secret, "blobs/hop": path(f"{out}.safetensors"), "blobs/circle": path("circle"), "snapshots/ab/model.safetensors.index.json": {"weight_map": {"t": "m.safetensors"}}},
         lambda name: {"snapshots/ab/m.safetensors": path(name)}),
        ("a digest", ["sha256:ab", "sha256-ab"], ["sha256:../out.gguf", "sha256-../../out.gguf", "../../out.gguf", "sha256:../../../out.gguf", f"sha256:{out}.gguf", f"{out}.gguf", "..:..", ":", "sha256:", ":ab", "", "../../out:ab",
         "sha256:ab/../../../out.gguf", "sha256:ab\x00", "sha256:%2e%2e", "sha256:..\\out.gguf", "sha256:" + "a" * 5000, "sha256:cd", None, 1, [], {}], {"blobs/sha256-ab": gguf([ARCH], [bytes_])},
         lambda name: {"manifests/registry/library/m/latest": {"layers": [{"mediaType": layer, "digest": name}]}}),
        ("the name of a part", ["good"], ["..", ".", "", "-", "..\\out", "%2e%2e%2fout", "~", "-of-", "a-00001-of-00002", "a\nb", "\x1b[2J", "．．", "-rf", "$(x)", "out", "a" * 200], {},
         lambda name: {f"{name}-00001-of-00002.gguf": one, f"../{name}-00002-of-00002.gguf": two, **({"good-00002-of-00002.gguf": two} if name == "good" else {})}),
        ("split.count", [(U16, 2)], [(U16, 0), (U16, 1), (U16, 3), (U16, 65_535), (U64, 2**64 - 1), (I32, -1), (F32, 2.0), (STRING, "../../out"), (ARRAY, (STRING, ["../out", "../out"])), (BOOL, True)], {},
         lambda count: {"m-00001-of-00002.gguf": split(0, ("o", (1,), floats(1.0)), count=count), ("" if count == (U16, 2) else "../") + "m-00002-of-00002.gguf": two}),
        ("a module", ["good", "sub/good"], [*names, "linked", None, 1, [], {}], {"model.safetensors": other, "good/model.safetensors": secret, "sub/good/model.safetensors": secret, "link": out,
         "linked/model.safetensors": path(f"{out}.safetensors")}, lambda name: {"modules.json": [{"path": "", "type": "a.Transformer"}, {"path": name, "type": "a.Dense"}]}),
        ("the first module", ["good"], names, {"good/model.safetensors": secret, "link": out}, lambda name: {"modules.json": [{"path": name, "type": "a.Transformer"}]}),
    ]
    for place, good, bad, beside_, made in places:
        for name in [*good, *bad]:
            shutil.rmtree(home, ignore_errors=True)
            for file, body in {"../out/model.safetensors": secret, "../out.safetensors": secret, "../out.gguf": gguf([ARCH], [bytes_]), **beside_, **made(name)}.items():
                file = home / file[3:] if file.startswith("../") else inside / file
                file.parent.mkdir(parents=True, exist_ok=True)
                file.symlink_to(body) if isinstance(body, pathlib.Path) else file.write_bytes(body if isinstance(body, bytes) else json.dumps(body).encode())
            read = set()
            for command in ("ls", "info", "hash", "stats", "verify"):
                done = run(command, inside, "--json")
                read |= {command} if str(SECRET).encode() in done.stdout else set()
                problem = wrong(done) or ("/etc/passwd" if b"root:x:" in done.stdout + done.stderr else None)
                yield f"{name!r:.80} in {place}, {command}: {problem}" if problem else None
            # Names that stay inside are read: what tells of those that do not can fail.
            yield None if bool(read) == (name in good) else f"{name!r:.80} in {place}: read by {sorted(read) or 'nothing'}"


@attack
def crowded_folders(folder):
    """Folders of very many files, indexes of very many names, sparse files of terabytes."""
    count = 5_000 if ARGS.quick else 100_000
    crowd = llama_folder(folder / "crowd")
    for i in range(count):
        (crowd / f"f{i}.txt").touch()
    many = folder / "many"
    many.mkdir()
    for i in range(count // 50):
        (many / f"m{i}.gguf").write_bytes(gguf([ARCH], [("t", (1,), floats(1.0))]))
    index = folder / "index"
    index.mkdir()
    names = {f"tensor.{'x' * 200}.{i}": f"model-{i % 9999 + 1:05}-of-09999.safetensors" for i in range(count * 5)}
    (index / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    for place, command in itertools.product((crowd, many, index), ("info", "ls", "ls --tree", "count", "verify", "hash", "stats", "meta", "report")):
        yield wrong(run(command.split()[0], place, *command.split()[1:]))
    for size in (1 << 40, (1 << 43) - 1):
        for good in (gguf([ARCH], [("t", (1,), floats(1.0))]), safetensors([("t", (1,), floats(1.0))]), b"GGUF" + bytes(20), b"\xff" * 8):
            sparse = folder / "sparse"
            sparse.write_bytes(good)
            try:
                os.truncate(sparse, size)
            except OSError:
                continue  # the file system has no such files
            for command in ("info", "ls", "count", "meta", "verify", "show"):
                yield wrong(run(command, sparse, *(["t"] if command == "show" else []), limit=None))
    (folder / "sparse").unlink(missing_ok=True)


# ---- bombs

COMMANDS = [["info"], ["ls"], ["ls", "--tree"], ["count"], ["meta"], ["meta", "--full"], ["verify"], ["verify", "--data"], ["hash"], ["stats"], ["report"], ["ls", "--json"],
            ["stats", "--json"], ["meta", "--full", "--json"], ["stats", "--by", "layer"]]


def bombs(folder, files, commands=None):
    """Every command over every file, in 12 GB of addresses. The output goes nowhere."""
    for name, make in files.items():
        path = folder / name
        path.write_bytes(make())
        for command in commands or COMMANDS:
            arguments = ["prlimit", f"--cpu={TIME}", f"--as={AS_LIMIT}", ARGS.weigh, command[0], str(path), *command[1:]]
            try:
                done = subprocess.run(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, timeout=10 * TIME)
                yield wrong(done, what=f"{command} {name}")
            except subprocess.TimeoutExpired:
                yield f"{command} {name}: not done in {10 * TIME} s"
        path.unlink()


@attack
def many_and_long_names(folder):
    """A million tensors or keys, names of 50 MB, names of a thousand parts, many experts and layers."""
    n = 20_000 if ARGS.quick else 1_000_000
    long = 2_000_000 if ARGS.quick else 50_000_000
    one = floats(1.0)
    yield from bombs(folder, {
        "tensors.gguf": lambda: gguf([ARCH], [(f"t{i}", (1,), one) for i in range(n)]),
        "tensors.safetensors": lambda: safetensors([(f"t{i}", (1,), one) for i in range(n)]),
        "keys.gguf": lambda: gguf([ARCH] + [(f"k{i}", U8, 1) for i in range(n)], [("t", (1,), one)]),
        "metadata.safetensors": lambda: safetensors([("t", (1,), one)], {f"k{i}": "v" for i in range(n // 2)}),
        "dots.safetensors": lambda: safetensors([("a." * (long // 2), (1,), one)]),
        "layers.safetensors": lambda: safetensors([("layers.0." * (long // 9), (1,), one)]),
        "digits.safetensors": lambda: safetensors([("blk." + "9" * long, (1,), one)]),
        "escapes.safetensors": lambda: safetensors([("\u202e" * (long // 6), (1,), one)]),
        "name.gguf": lambda: gguf([ARCH], [("a." * (long // 2), (1,), one)]),
        "parts.gguf": lambda: gguf([ARCH], [("a." * 1000 + str(i), (1,), one) for i in range(n // 200)]),
        "experts.safetensors": lambda: safetensors([(f"model.layers.0.mlp.experts.{i}.w1.weight", (1,), one) for i in range(n * 3 // 10)]),
        "blocks.gguf": lambda: gguf([ARCH], [(f"blk.{i}.k{i}.weight", (1,), one) for i in range(n // 20)]),
        "key.gguf": lambda: gguf([ARCH, ("k." * (long // 2), U8, 1)], [("t", (1,), one)]),
        "same.gguf": lambda: gguf([ARCH], [("t", (1,), one)] * n),
        "dimensions.safetensors": lambda: safetensors([("t", (1,) * (long // 10), one)]),
        "empty.safetensors": lambda: safetensors([(f"t{i}", (0,), b"") for i in range(n)]),
    })


@attack
def arrays(folder):
    """Arrays of 50 million bytes, of millions of lists and of empty strings."""
    n = 10 if ARGS.quick else 1
    lists = lambda count: struct.pack("<IQ", ARRAY, count) + struct.pack("<IQ", U8, 0) * count
    raw = lambda body: gguf([ARCH, ("x", U8, 1)], [("t", (1,), floats(1.0))]).replace(text("x") + struct.pack("<IB", U8, 1), text("x") + struct.pack("<I", ARRAY) + body, 1)
    yield from bombs(folder, {
        "bytes.gguf": lambda: gguf([ARCH, ("x", ARRAY, (U8, bytes(50_000_000 // n)))], [("t", (1,), floats(1.0))]),
        "lists.gguf": lambda: raw(lists(4_000_000 // n)),
        "strings.gguf": lambda: raw(struct.pack("<IQ", STRING, 6_000_000 // n) + bytes(8 * (6_000_000 // n))),
        "tokens.gguf": lambda: gguf([ARCH, ("tokenizer.ggml.model", STRING, "gpt2"), ("tokenizer.ggml.tokens", ARRAY, (STRING, ["x"] * (2_000_000 // n)))]),
        "booleans.gguf": lambda: raw(struct.pack("<IQ", BOOL, 20_000_000 // n) + b"\1" * (20_000_000 // n)),
        "doubles.gguf": lambda: raw(struct.pack("<IQ", F64, 5_000_000 // n) + b"\xff\x7f" * (20_000_000 // n)),
        "text.gguf": lambda: raw(struct.pack("<IQQ", STRING, 1, 50_000_000 // n) + b"x" * (50_000_000 // n)),
    }, [["info"], ["meta"], ["meta", "--full"], ["meta", "--full", "--json"], ["meta", "--full", "--format", "csv"], ["meta", "--full", "--format", "markdown"],
        ["meta", "--full", "--format", "ndjson"], ["verify"], ["count"], ["report"]])


VALUES = [None, True, False, 0, 1, -1, 2, 3, 0.5, -0.5, 1e308, -1e308, 1e-308, 2**31, 2**32, 2**53, 2**63, 2**64, -(2**63), "", "x", "llama", "\x00", "a" * 100_000, "../../x",
          "\u202e\x1b[2J", [], [0], [None], [[]], ["x"] * 1000, list(range(1000)), {}, {"rope_type": "yarn"}, {"a": {"b": {}}}, {"type": "linear", "factor": -1}, "NaN", "1e400"]


@attack
def configurations(folder):
    """Every key of the configurations with values of every kind."""
    keys = [*LLAMA, "rope_scaling", "rope_parameters", "head_dim", "quantization_config", "text_config", "sliding_window", "layer_types", "num_experts", "tie_weights", "vocab_files"]
    files = [("config.json", keys), ("generation_config.json", ["bos_token_id", "eos_token_id", "pad_token_id", "suppress_tokens"]),
             ("tokenizer_config.json", ["bos_token", "eos_token", "chat_template", "added_tokens_decoder", "tokenizer_class", "add_bos_token"]),
             ("adapter_config.json", ["r", "lora_alpha", "target_modules", "rank_pattern", "alpha_pattern", "use_rslora", "base_model_name_or_path"])]
    inside = llama_folder(folder / "in")
    for (file, keys), number in itertools.product(files, range(len(VALUES))):
        for key in some(keys, 3):
            base = LLAMA if file == "config.json" else {}
            (inside / file).write_text(json.dumps({**base, key: VALUES[number]}))
            for command in (["convert", inside, folder / "o.gguf", "--dry-run"], ["info", inside], ["verify", inside]):
                yield wrong(run(*command), what=f"{command[0]}, {file}: {key} = {VALUES[number]!r:.60}")
        if file != "config.json":
            (inside / file).unlink()


@attack
def tokenizers(folder):
    """Vocabularies, merges, templates, pre-tokenizers and SentencePiece files that are large, deep or broken."""
    n = 20_000 if ARGS.quick else 300_000
    base = lambda **model: {**TOKENIZER, "model": {**TOKENIZER["model"], **model}}
    deep = {"type": "Sequence", "pretokenizers": []}
    for _ in range(100):
        deep = {"type": "Sequence", "pretokenizers": [deep]}
    cases = {
        "vocab": base(vocab={f"t{i}": i for i in range(n)}), "ids": base(vocab={"a": 2**40, "b": -1, "c": 1.5}), "same ids": base(vocab={f"t{i}": 0 for i in range(n)}),
        "merges": base(merges=["a b"] * n), "long merge": base(merges=["a" * 5_000_000]), "odd merges": base(merges=[["a"], [], "a", 1, None]),
        "added": {**TOKENIZER, "added_tokens": [{"id": i, "content": f"<{i}>", "special": True} for i in range(n)]},
        "far id": {**TOKENIZER, "added_tokens": [{"id": 2**62, "content": "x"}]}, "deep": {**TOKENIZER, "pre_tokenizer": deep},
        "expression": {**TOKENIZER, "pre_tokenizer": {"type": "Split", "pattern": {"Regex": "(" * 100_000}, "behavior": "Isolated"}},
        "normalizer": {**TOKENIZER, "normalizer": {"type": "Precompiled", "precompiled_charsmap": "A" * 1_000_000}}, "type": base(type="Unigram", vocab=[["a", 1e400 if False else 1.0]] * n),
        "word piece": base(type="WordPiece", vocab={f"t{i}": i for i in range(n)}), "list": [], "null": None,
    }
    inside = folder / "in"
    for name, tokenizer in cases.items():
        llama_folder(inside, tokenizer=tokenizer)
        for use in (["convert", inside, folder / "o.gguf", "--force"], ["convert", inside, folder / "o", "--force"], ["info", inside], ["verify", inside], ["diff", inside, folder / "o.gguf"]):
            yield wrong(run(*use), what=f"{use[0]}, {name}")
    for count in (n, 2 * n):
        llama_folder(inside)
        (inside / "tokenizer_config.json").write_text(json.dumps({"chat_template": [{"name": f"n{i}", "template": "x"} for i in range(count)]}))
        yield wrong(run("convert", inside, folder / "o.gguf", "--force"), what=f"{count} templates")
    (inside / "tokenizer_config.json").unlink()
    (inside / "tokenizer.json").unlink()
    pieces = b"".join(b"\x0a" + bytes([len(token) + 2]) + b"\x0a" + bytes([len(token)]) + token for token in (b"%d" % i for i in range(n)))
    for body in (b"", pieces, b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", b"\x0b" * n, os.urandom(n), pieces[:-1], b"\x0a\x80" * n, pieces[:200] + b"\xff" + pieces[200:], b"\x0a\x00" * n):
        (inside / "tokenizer.model").write_bytes(body)
        for use in (["convert", inside, folder / "o.gguf", "--force"], ["info", inside], ["verify", inside]):
            yield wrong(run(*use), what=f"{use[0]}, tokenizer.model of {len(body)} bytes")
    (inside / "tokenizer.model").unlink()
    # The vocabularies of other tokenizers, each under a table that reads it.
    ranks = b"".join(base64.b64encode(b"%d" % i) + b" %d\n" % i for i in range(n))
    files = {
        ("qwen.tiktoken", "qwen"): (ranks, b"", b"IQ== 99999999999999999999\n", b"IQ== -1\n" * 9, b"!!! 0\n" * n, b"IQ== 0\n" * n, ranks.replace(b"\n", b""), b"A" * 5_000_000 + b" 1\n"),
        ("tiktoken.model", "bpe-or-kimi"): (ranks, os.urandom(n), b"\xff\xfe 0\n"), ("hy.tiktoken", "hunyuan-moe"): (ranks, b"IQ== 4294967295\n"),
        ("rwkv_vocab_v20230424.txt", "rwkv"): (b"1 'a' 1\n" * n, b"1 " + b"\\x" * n, b"1 __import__('os') 1\n"),
        ("tokenizer.jsonl", "plamo2"): (b'["a", 0.0, "NORMAL"]\n' * n, b"[" * 100_000, b'["a", 1e999, {}]\n'),
        ("spiece.model", "t5"): (pieces, b"\x0b" * n, b"\x12\xff\xff\xff\xff\x7f"),
    }
    for (name, kind), bodies in files.items():
        (folder / "t.toml").write_text(f"name = 'x'\nextends = 'llama'\ngguf = 'llama'\nclasses = ['LlamaForCausalLM']\ntokenizer = '{kind}'\n")
        for body in bodies:
            (inside / name).write_bytes(body)
            for use in (["convert", inside, folder / "o.gguf", "--force", "--arch-table", folder / "t.toml"], ["info", inside], ["verify", inside]):
                yield wrong(run(*use), what=f"{use[0]}, {name} of {len(body)} bytes")
        (inside / name).unlink()


@attack
def architecture_tables(folder):
    """Tables with short names that lead to each other, deep expressions, very many rows, and lines of megabytes."""
    n = 10_000 if ARGS.quick else 200_000
    head = "name = 'x'\nextends = 'llama'\ngguf = 'llama'\nclasses = ['LlamaForCausalLM']\n"
    names = "abcdefghijklmnop"
    lets = lambda text: f"{head}let = {{ {text} }}\n"
    cases = {
        "itself": lets("layers = 'layers'"), "itself often": lets("layers = '%s'" % "+".join(["layers"] * 10)),
        "chain": lets(", ".join(f"{a} = '{'+'.join([b] * 10)}'" for a, b in zip(names, names[1:])) + ", layers = 'a'"),
        "circle": lets("layers = 'b+b+b+b', b = 'layers+layers+layers'"), "zero": lets("layers = '1 // 0'"), "large": lets("layers = '9e15 * 9e15'"),
        "parentheses": lets(f"layers = '{'(' * 1000}1{')' * 1000}'"), "long": lets("layers = '%s'" % "+".join(["1"] * n)), "negative": lets("layers = '0 - 1'"),
        "infinite": lets("layers = inf"), "keys": head + "".join(f"[[keys]]\ngguf = 'k{i}'\nhf = 'k{i}'\n" for i in range(n)),
        "tensors": head + "".join(f"[[tensors]]\nhf = 't{i}'\ngguf = 't{i}'\noptional = true\n" for i in range(n)),
        "derived": head + "[derived]\n" + "".join(f"d{i} = 'layers'\n" for i in range(n)), "drop": head + "drop = [%s]\n" % ", ".join(["'*a*b*c*'"] * (n // 20)),
        "replace": head + "replace = [%s]\n" % ", ".join(["['a', 'aa']"] * 60), "line": "x = " + "y" * 1_000_000, "extends": f"extends = '{'x' * 1_000_000}'",
        "nested": "x = " + "[" * 100_000, "not text": b"\xff\xfe", "nothing": "", "zeros": b"\0" * 1_000_000, "tables": "[a" + ".a" * 100_000 + "]",
    }
    inside = llama_folder(folder / "in")
    for name, table in cases.items():
        (folder / "t.toml").write_bytes(table if isinstance(table, bytes) else table.encode())
        for command in (["convert", inside, folder / "o.gguf", "--force"], ["convert", inside, folder / "o.gguf", "--dry-run"], ["convert", inside, folder / "o", "--force"], ["verify", inside], ["verify", "--data", inside]):
            done = run(*command, "--arch-table", folder / "t.toml", timeout=60)
            long = f"{name}: {len(done.stderr)} bytes of error" if len(done.stderr) > 4000 else None
            yield wrong(done, what=f"{command[0]}, {name}") or long


@attack
def other_files(folder):
    """Importance matrices, manifests and LoRA adapters that are broken, large or made to mislead."""
    model = folder / "m.gguf"
    model.write_bytes(gguf([ARCH], [("t", (8, 32), floats(*([0.5] * 256)))]))
    pack = lambda name, calls, values: struct.pack("<i", len(name)) + name + struct.pack("<ii", calls, len(values)) + floats(*values)
    entries = [b"", bytes(4), struct.pack("<i", -1), struct.pack("<i", 2**31 - 1), struct.pack("<i", 1) + pack(b"t", 1, [1.0] * 32), struct.pack("<i", 1) + pack(b"t", 0, [1.0] * 32),
               struct.pack("<i", 1) + pack(b"t", 1, [float("nan")] * 32), struct.pack("<i", 1) + pack(b"t", 1, [-1.0] * 32), struct.pack("<i", 1) + pack(b"t", 1, [1.0]),
               struct.pack("<i", 2) + pack(b"t", 1, [1.0] * 32) * 2, struct.pack("<i", 1) + struct.pack("<i", 2**31 - 1) + b"t", struct.pack("<ii", 1, -5), os.urandom(100_000),
               gguf([("general.type", STRING, "imatrix")], [("t.in_sum2", (1, 32), floats(*[1.0] * 32)), ("t.counts", (1,), floats(0.0))]),
               gguf([("general.type", STRING, "imatrix"), ("imatrix.chunk_size", U32, 0)], [("t.in_sum2", (1, 31), floats(*[1.0] * 31))])]
    for i, body in enumerate(entries):
        (folder / "imatrix").write_bytes(body)
        yield wrong(run("convert", model, folder / "o.gguf", "--type", "Q4_K", "--imatrix", folder / "imatrix", "--force"), what=f"imatrix {i}")
    n = 20_000 if ARGS.quick else 1_000_000
    lines = ["", "\x00", "sha256", "sha256 x", "sha256  00  m.gguf", "sha256 " + "0" * 5_000_000 + " m.gguf", "sha256  00  m.gguf:t\n" * n, "sha256  00  " + "/" * 1_000_000, "uuid 1 2 " * 1000,
             "".join(f"xxh64  {i:016x}  m.gguf:{i}\n" for i in range(n)), "sha256\u2028 00 m.gguf", "\r" * 100_000]
    for i, body in enumerate(lines):
        (folder / "manifest").write_text(body)
        for command in (["hash", model, "--check"], ["verify", model, "--manifest"]):
            yield wrong(run(*command, folder / "manifest"), (0, 1, 2, 3, 4, 5), f"manifest {i}")
    base, adapter = llama_folder(folder / "base"), folder / "adapter"
    adapter.mkdir()
    at = "base_model.model.model.layers.0.self_attn.q_proj.lora_"
    tensor = lambda name, rows, columns, value=0.5: (name, (rows, columns), floats(*[value] * (rows * columns)))
    shapes = [[tensor(f"{at}A.weight", 2, 8), tensor(f"{at}B.weight", 8, 2)], [tensor(f"{at}A.weight", 2, 8)], [tensor(f"{at}A.weight", 2, 7), tensor(f"{at}B.weight", 8, 2)],
              [tensor(f"{at}A.weight", 2, 8), tensor(f"{at}B.weight", 8, 3)], [tensor(f"{at}A.weight", 0, 8), tensor(f"{at}B.weight", 8, 0)],
              [tensor(f"{at}A.weight", 2, 8, 3e38), tensor(f"{at}B.weight", 8, 2, 3e38)], [tensor(f"{at}A.weight", 2, 8, float("nan")), tensor(f"{at}B.weight", 8, 2)],
              [tensor("x.lora_A.weight", 2, 8), tensor("x.lora_B.weight", 8, 2)], []]
    for tensors, config in itertools.product(shapes, ({"r": 2, "lora_alpha": 4}, {}, {"r": 0}, {"r": -1}, {"r": 2**40, "lora_alpha": 1e308}, {"r": 2, "alpha_pattern": {"[": 1}})):
        (adapter / "adapter_model.safetensors").write_bytes(safetensors(tensors))
        (adapter / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", **config}))
        yield wrong(run("convert", base, adapter, folder / "merged.safetensors", "--force"), what=f"adapter {config}")
        yield wrong(run("info", adapter), what=f"adapter {config}")


@attack
def options(folder):
    """Options with values that make no sense."""
    model = folder / "m.gguf"
    model.write_bytes(gguf([ARCH], [("t", (4, 4), floats(*range(16)))]))
    numbers = ["0", "-1", "-0", "1", "999999999999999999999999", "1e400", "nan", "inf", "", " ", "x", "0x10", "1.5", "+1", "\u0661", "9" * 10_000]
    uses = [["ls", "--limit"], ["stats", "--threshold"], ["stats", "--outlier"], ["stats", "--threads"], ["convert", folder / "o.gguf", "--force", "--shard-size"], ["diff", model, "--tolerance"]]
    globs = ["*", "[", "{", "{a,b", "**", "[!", "\\", "?" * 10_000, "{" * 1000, "*a" * 500, "[a-z" * 100, "{a,{b,{c}}}", "\x1b", "é*"]
    slices = ["0", "-1", ":", "::", "::0", "::-1", "1:0", "99", "0,0,0", "...", "9" * 50, "-9:9", "0:1:1", "1:", ":1,:1", "0,0", "-1,-1", "0:0", "٣", "1e3", "None", "+1", "0x1", "::2,::3", ":" * 1000, "0:1:2:3", "", "a", "0,,0", "0:18446744073709551616"]
    metadata = ["", "=", "a", "a=", "a=u8:256", "a=u8:-1", "a=f32:1e39", "a=f64:1e400", "a=bool:2", "a=u8[]:[1,2", "a=string[]:[1]", "a=@/nonexistent", "=u8:1", "a=u8[]:" + "[" * 500, "a=array:1", "general.alignment=u32:3",
                "general.alignment=u32:0", "general.alignment=string:x"]
    runs = [[*use[:1], model, *use[1:], number] for use in uses for number in numbers]
    runs += [[command, model, f"{option}={glob}"] for command in ("ls", "stats") for option in ("--filter", "--exclude") for glob in globs]
    runs += [["show", model, "t", f"--slice={text}"] for text in slices] + [["meta", model, "set", text, "--dry-run"] for text in metadata if "\x00" not in text]
    for arguments in runs:
        yield wrong(run(*arguments, timeout=60))
    for columns in numbers:
        yield wrong(run("ls", model, env={**os.environ, "COLUMNS": columns}), what=f"COLUMNS={columns}")


# ---- text

PAYLOADS = ["\x1b[2J\x1b[31mred", "\x1b]0;title\x07", "\x9b31m", "\u202eright", "\u2066a\u2069", "\u200bzero", "a\nb", "a\r\nok: sound", "\x00nul", "\x7f", "\x08\x08", "a\u2028b", "a\u2029b", "\ufeff", "\u3164",
            "\u115f", "\u034f", "\ufe0f", "\U000e0100", "\U000e0041", "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "\"><svg onload=alert(1)>", "javascript:alert(1)", "=1+1", "+1", "-1", "@SUM(1)",
            "=cmd|'/C calc'!A0", "|a|b|", "`x`", "[x](http://x)", "![x](http://x)", "*b* _i_ ~s~", "# h", "--force", "-rf", "../../etc/passwd", "/etc/passwd", "$(touch x)", "`touch x`", "%s%n", "a,b\"c", "'", "\\",
            "é模🙂", "a" * 300, "&lt;"]
FORMATS = ["table", "json", "ndjson", "csv", "markdown"]
FENCED = re.compile(r"^(`{3,})text\n.*?^\1$", re.MULTILINE | re.DOTALL)  # text as it is: no tag counts there
LOOK = [["info"], ["ls"], ["ls", "--tree"], ["count"], ["meta"], ["meta", "--full"], ["verify"], ["hash"], ["stats"], ["stats", "--by", "layer"]]


def is_raw(c):
    """Whether a terminal or a reader could be deceived by a character."""
    return (ord(c) < 32 and c not in "\n\r\t") or 0x7F <= ord(c) <= 0x9F or c in "\xad\u034f\u061c\u115f\u1160\u3164\uffa0\ufeff" or "\u200b" <= c <= "\u200f" \
        or "\u2028" <= c <= "\u202e" or "\u2060" <= c <= "\u206f" or "\ufe00" <= c <= "\ufe0f" or 0xE0000 <= ord(c) <= 0xE01EF


def pairs_once(pairs):
    assert len({key for key, _ in pairs}) == len(pairs), "a key twice"
    return dict(pairs)


def no_constant(name):
    raise ValueError(name)


def unsafe(out, form):
    """What is wrong with an output; none at all is an error's."""
    try:
        shown = out.decode()
    except UnicodeDecodeError:
        return "not UTF-8"
    if form in ("json", "ndjson") and shown:
        try:
            for document in [shown] if form == "json" else shown.split("\n")[:-1]:
                json.loads(document, object_pairs_hook=pairs_once, parse_constant=no_constant)
        except (ValueError, AssertionError) as error:
            return f"not strict JSON: {error}"
        return next((f"raw {c!r}" for c in shown if (ord(c) < 32 and c != "\n") or 0x7F <= ord(c) <= 0x9F), None)
    return next((f"raw {c!r}" for c in shown if is_raw(c)), None) or ("a raw tag" if form == "markdown" and "<script" in FENCED.sub("", shown).replace("\\<", "") else None)


@attack
def hostile_text(folder):
    """Hostile text in every place of a file, on every command, in every format."""
    for number, payload in enumerate(some(PAYLOADS, 12)):
        one, name = floats(1.0), payload[:60]
        files = {
            "tensor.gguf": gguf([ARCH], [(name, (1,), one)]), "key.gguf": gguf([ARCH, (payload, STRING, "v")], [("t", (1,), one)]),
            "value.gguf": gguf([ARCH, ("general.name", STRING, payload), ("general.license", STRING, payload), ("a", ARRAY, (STRING, [payload] * 3))], [("t", (1,), one)]),
            "architecture.gguf": gguf([("general.architecture", STRING, payload)], [("t", (1,), one)]),
            "token.gguf": gguf([ARCH, ("tokenizer.ggml.model", STRING, payload), ("tokenizer.ggml.tokens", ARRAY, (STRING, [payload, payload]))], [("t", (1,), one)]),
            "tensor.safetensors": safetensors([(payload, (1,), one)]), "metadata.safetensors": safetensors([("t", (1,), one)], {payload: payload}),
            "type.safetensors": header({payload: {"dtype": payload, "shape": [1], "data_offsets": [0, 4]}}, one),
        }
        for file, body in files.items():
            path = folder / file
            path.write_bytes(body)
            for command, form in itertools.product(some(LOOK, 5), FORMATS):
                done = run(command[0], path, *command[1:], "--format", form)
                problem = unsafe(done.stdout, form) or unsafe(done.stderr, "table")
                yield wrong(done) or (f"{payload!r} in {file}, {command} {form}: {problem}" if problem else None)
        shown = name.replace("/", "_").replace("\x00", "_") or "_"
        (folder / f"d{number}").mkdir()
        path = folder / f"d{number}" / shown
        path.write_bytes(files["tensor.gguf"])
        for command, form in itertools.product(some(LOOK, 3), FORMATS):
            done = run(command[0], path, *command[1:], "--format", form)
            problem = unsafe(done.stdout, form) or unsafe(done.stderr, "table")
            yield wrong(done) or (f"a file named {shown!r}, {command} {form}: {problem}" if problem else None)
        if "\x00" not in payload:
            for arguments in (["ls", "--", payload], ["show", path, "--", payload], ["meta", path, "get", "--", payload], ["ls", path, f"--filter={payload}"], [f"--{payload}"], [payload]):
                done = run(*arguments)
                yield wrong(done) or (f"argument {payload!r}: {unsafe(done.stderr, 'table')}" if unsafe(done.stderr, "table") else None)


class Page(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.scripts, self.odd = 0, []

    def handle_starttag(self, tag, attributes):
        self.scripts += tag == "script"
        self.odd += [tag] if tag in ("img", "iframe", "object", "embed", "form", "base") else []
        self.odd += [name for name, value in attributes if name.startswith("on") or name in ("href", "src", "action") and "data:," != value]


@attack
def reports(folder):
    """Hostile text in reports of one model and of two, and as the names of files: by html.parser, by html5lib, and used in a headless Chromium, where those are installed."""
    try:
        import html5lib
    except ImportError:
        html5lib = None
    try:
        browser = Browser()
    except FileNotFoundError as reason:
        print(f"    {reason}: the pages are only parsed", file=sys.stderr)
        browser = None
    one = floats(1.0, 2.0)
    tensors = [(f"{payload[:40]}{i}", (2,), one) for i, payload in enumerate(PAYLOADS)] + [(f"blk.0.{payload[:40]}", (2,), one) for payload in PAYLOADS]
    seen = {}

    def page(use):
        """What is wrong with a page: once as text, once as it is shown."""
        done = run("report", *use, cwd=folder)
        shown, parsed = done.stdout.decode(), Page()
        parsed.feed(shown)
        problem = wrong(done, (0,)) or (f"{parsed.scripts} scripts, {parsed.odd}" if parsed.scripts != 1 or parsed.odd else None) or next((f"raw {c!r}" for c in shown if is_raw(c)), None)
        if html5lib and not problem:
            parser = html5lib.HTMLParser(strict=False)
            parser.parse(shown)
            problem = f"html5lib: {parser.errors[:3]}" if parser.errors else None
        for picture in re.findall(r"<svg.*?</svg>", shown, re.DOTALL):
            try:
                xml.etree.ElementTree.fromstring(picture)
            except xml.etree.ElementTree.ParseError as error:
                problem = problem or f"a picture that is no XML: {error}"
        yield f"{use}: {problem}" if problem else None
        if browser:
            (folder / "page.html").write_bytes(done.stdout)
            found, problems = browser.show(folder / "page.html")
            for key, count in {"pages": 1, **found}.items():
                seen[key] = seen.get(key, 0) + count
            yield f"{use}, shown: {problems}" if problems else None

    try:
        for title in some(PAYLOADS, 10):
            for side, number in (("a", 1.0), ("b", 2.0)):
                (folder / f"{side}.gguf").write_bytes(gguf([ARCH, ("general.name", STRING, title)], [(name, shape, floats(number, 2.0)) for name, shape, _ in tensors]))
            for models in (["a.gguf"], ["a.gguf", "b.gguf"]):
                yield from page(models)
        for payload in some(PAYLOADS, 10):
            name = payload[:60].replace("/", "_").replace("\x00", "_") + ".gguf"
            (folder / name).write_bytes(gguf([ARCH, ("general.name", STRING, payload), (payload, STRING, payload)], [(f"t{i}", (2,), one) for i in range(3)]))
            yield from page([f"./{name}"])
    finally:
        if browser:
            browser.close()
            print(f"    in the browser: {', '.join(f'{count} {key}' for key, count in seen.items())}", file=sys.stderr)


@attack
def hash_round_trips(folder):
    """hash, then --check, with hostile names; and each name has a line of its own."""
    names = PAYLOADS + [payload.replace("\n", "\\n").replace("\x1b", "\\u{1b}") for payload in PAYLOADS]
    names = list(dict.fromkeys(names))
    for algorithm in ("sha256", "blake3", "sha1", "xxh64"):
        for number, count in enumerate(some(range(2, len(names), 2), 6)):
            model = folder / "m.safetensors"
            model.write_bytes(safetensors([(name, (1,), floats(float(i))) for i, name in enumerate(names[:count])]))
            manifest = run("hash", model, "--algorithm", algorithm).stdout
            (folder / "manifest").write_bytes(manifest)
            lines = [line.split(None, 2)[2] for line in manifest.decode().split("\n") if line]
            done = run("hash", model, "--check", folder / "manifest")
            yield wrong(done, (0,)) or (None if len(set(lines)) == count + 1 else f"{algorithm}, {count} names: {len(set(lines))} lines")


# What the place a program runs in may say of language, time, home and terminal.
PLACES = [{"LANG": "de_DE.UTF-8", "LC_ALL": "de_DE.UTF-8"}, {"LC_ALL": "tr_TR.UTF-8"}, {"LC_ALL": "C"}, {"TZ": "Asia/Kathmandu"}, {"HOME": "/nonexistent"}, {"HOME": "", "PATH": ""}, {"TERM": "dumb", "COLUMNS": "20"}]


def written_types():
    return [kind for kind in json.loads(run("types", "--json").stdout)["types"] if kind["written"]]


@attack
def threads(folder):
    """The same bytes and numbers on any number of threads, in other places, and where threads cannot be started: every type written."""
    random.seed(1)
    model = folder / "m.safetensors"
    model.write_bytes(safetensors([(f"t{i}", (64, 512), floats(*(random.gauss(0, 1) for _ in range(64 * 512)))) for i in range(6)]))
    run("convert", model, folder / "half.safetensors", "--type", "F16")
    uses = [["stats", model, "--json"], ["hash", model], ["verify", "--data", model, "--json"], ["diff", model, folder / "half.safetensors", "--json"]]
    uses += [["convert", model, folder / ("o.safetensors" if kind["ggml_id"] is None else "o.gguf"), "--type", kind["name"], "--force", *(["--pure"] if kind["class"] == "block" else [])]
             for kind in some(written_types(), 4)]
    for use in uses:
        def gave(*more, **places):
            done = run(*use, *more, **places)
            return done, (done.returncode, digest(use[2]) if use[0] == "convert" and done.returncode == 0 else done.stdout)
        first, expected = gave("--threads", "1")
        yield wrong(first, (0, 1))
        for count in (2, 3, 4, 5, 7, 8, 16, 256):
            done, found = gave("--threads", count)
            yield wrong(done, (0, 1)) or (None if found == expected else f"{use}: {count} threads differ from one")
        for place in PLACES:
            done, found = gave(env={**os.environ, **place}, prefix=["/usr/bin/env"])
            yield wrong(done, (0, 1)) or (None if found == expected else f"{use}: differs in {place}")
        if shutil.which("strace"):
            yield wrong(run(*use, prefix=["strace", "-f", "-qq", "-o", "/dev/null", "-e", "inject=clone3,clone:error=EAGAIN"]), (0, 1))
        for megabytes in (200, 400, 800):
            done = run(*use, "--threads", "200", limit=megabytes << 20)
            yield wrong(done, (0, 1), f"{use[0]} in {megabytes} MB")


PROCESSORS = ["Nehalem", "SandyBridge", "Haswell"]  # without AVX, with AVX, with AVX2


@attack
def processors(folder):
    """The same bytes and numbers on processors with fewer instructions: every type written, then read."""
    if not shutil.which("qemu-x86_64") or os.uname().machine != "x86_64":
        raise Skip("no qemu-x86_64 (package qemu-user), or no x86_64")
    random.seed(2)
    values = [0.0] * 256 + [1e-40, -1e-40] * 128 + [4.0, -1e-3] * 128 + [min(max(random.gauss(0, 1), -4), 4) for _ in range(256 * 13)]
    source, importance = folder / "source.safetensors", floats(*(random.random() for _ in range(512)))
    source.write_bytes(safetensors([("t", (8, 512), floats(*values))]))
    (folder / "imatrix").write_bytes(struct.pack("<ii", 1, 1) + b"t" + struct.pack("<ii", 1, 512) + importance)

    def everywhere(*use, made=None):
        first = None
        for processor in [None, *PROCESSORS]:
            done = run(*use, prefix=["qemu-x86_64", "-cpu", processor] if processor else [])
            gave = (done.returncode, done.stdout, digest(made) if made and done.returncode == 0 else "")
            first = first or gave
            yield wrong(done, (0, 1)) or (None if gave == first else f"{' '.join(map(str, use))}: differs on {processor}")

    for kind in some(written_types(), 8):
        made = folder / ("o.safetensors" if kind["ggml_id"] is None else "o.gguf")
        for more in (["--pure"], ["--pure", "--imatrix", folder / "imatrix"]) if kind["class"] == "block" else ([],):
            yield from everywhere("convert", source, made, "--type", kind["name"], "--force", *more, made=made)
            for use in (["stats", made, "--json"], ["hash", made, "--content", "--json"], ["diff", source, made, "--json"]):
                yield from everywhere(*use)
    fixtures = pathlib.Path(__file__).resolve().parents[2] / "fixtures"
    for path in some([fixtures / "llama-tiny", *fixtures.glob("*.gguf"), *fixtures.glob("*.safetensors")], 3):
        for use in (["stats", path, "--json"], ["hash", path, "--content", "--json"], ["verify", "--data", path, "--json"]):
            yield from everywhere(*use)


# ---- numbers

# Type: its NumPy type, its bits an element. Those of ml_dtypes are there where that is installed.
PLAIN = {"F64": ("f8", 64), "F32": ("f4", 32), "F16": ("f2", 16), "I8": ("i1", 8), "I16": ("i2", 16), "I32": ("i4", 32), "I64": ("i8", 64), "U8": ("u1", 8), "U16": ("u2", 16),
         "U32": ("u4", 32), "U64": ("u8", 64), "BOOL": ("u1", 8), "C64": ("f4", 64)}
SMALL = {"BF16": ("bfloat16", 16), "F8_E4M3": ("float8_e4m3fn", 8), "F8_E5M2": ("float8_e5m2", 8), "F8_E4M3FNUZ": ("float8_e4m3fnuz", 8), "F8_E5M2FNUZ": ("float8_e5m2fnuz", 8),
         "F8_E8M0": ("float8_e8m0fnu", 8), "F6_E2M3": ("float6_e2m3fn", 6), "F6_E3M2": ("float6_e3m2fn", 6), "F4": ("float4_e2m1fn", 4)}
GGML = {"F32": 0, "F16": 1, "I8": 24, "I16": 25, "I32": 26, "I64": 27, "F64": 28, "BF16": 30}
SHAPES = [(), (0,), (3, 0, 2), (1,), (4,), (64,), (65,), (7, 9), (2, 3, 5, 7), (2, 1, 2, 3, 1, 2, 1, 4), (1, 1, 1, 1, 1, 1, 1, 1), (1000,), (33, 129), (20_000,), (100_000,)]
TINY = 1e-150  # squares of smaller numbers are below the smallest double: NumPy's deviation and norm of them are 0, and so are weigh's
ULP = 2.0**-52


def rounding(count):
    """How far a sum of doubles may be off the same of long doubles, relative to the sum of the magnitudes: weigh has eight sums beside each
    other, and each addition rounds by half an ulp. (NumPy's own sum of doubles, pairwise, is no further off.)"""
    return ULP * (count / 16 + 16)


def close(got, expected, allowed):
    """Whether a number of weigh's JSON is the one expected. What exceeds a double is null, or as NumPy's long double has it."""
    if got is None:
        return not abs(expected) < 1e308
    return abs(got - expected) <= allowed


def measured(np, x, row):
    """What is wrong with a row of `stats`, given the numbers of its tensor as long doubles.

    Counts and extremes are equal. Sums are near (`rounding`), and a deviation, being of the numbers less the mean, has the mean's error as
    well; squares of tiny numbers underflow. A percentile lies between two numbers, at a rank of which the rounding grows with the count.
    """
    finite = x[np.isfinite(x)]
    counts = {"zeros": (x == 0).sum(), "negatives": (x < 0).sum(), "nan": np.isnan(x).sum(), "inf": np.isinf(x).sum()}
    for key, expected in counts.items():
        if row[key] != expected:
            return f"{key} {row[key]}, expected {expected}"
    if not finite.size:
        return next((f"{key} of no numbers: {row[key]}" for key in ("min", "max", "mean", "std", "abs_mean", "abs_max", "l2") if row[key] is not None), None)
    for key, expected in {"min": finite.min(), "max": finite.max(), "abs_max": abs(finite).max()}.items():
        if row[key] != float(expected):
            return f"{key} {row[key]}, expected {expected}"
    size, ulps = abs(finite).mean(), rounding(finite.size)
    expected = {"mean": (finite.mean(), ulps * size), "abs_mean": (size, ulps * size), "std": (finite.std(), ulps * (finite.std() + size) + TINY),
                "l2": (np.sqrt((finite * finite).sum()), ulps * np.sqrt((finite * finite).sum()) + TINY * np.sqrt(finite.size))}
    for key, (number, allowed) in expected.items():
        # A sum of squares that exceeds a double is null, though its root would not.
        if not close(row[key], number, allowed) and not (row[key] is None and (finite * finite).sum() > 1e308):
            return f"{key} {row[key]!r}, expected {number!r}"
    if row["percentiles"]["relative_error"] == 0:
        for rank, got in row["percentiles"].items():
            if rank != "relative_error" and not close(got, np.percentile(finite, float(rank)), 8 * ULP * finite.size * abs(finite).max()):
                return f"percentile {rank}: {got!r}, expected {np.percentile(finite, float(rank))!r}"
    return None


def compared(np, a, b, row):
    """What is wrong with a row of `diff`. Two NaN, and equal infinities, are no difference; what else is not finite leaves the measures unknown."""
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    if row["equal"] != same.all() or abs(row["changed"] - (~same).mean() if same.size else row["changed"]) > ULP:
        return f"equal {row['equal']}, changed {row['changed']}, expected {(~same).sum()} of {same.size}"
    distance = np.where(same, 0, a - b)
    if not np.isfinite(distance).all():
        return None if row["max_abs"] is None and row["rmse"] is None else f"{row['max_abs']} and {row['rmse']} of what is not finite"
    if not same.size:
        return None
    largest, ulps = abs(distance).max(), rounding(same.size)
    mean = np.sqrt((distance * distance).mean())
    if row["max_abs"] is None and row["rmse"] is None and max((distance * distance).sum(), (a[np.isfinite(a)]**2).sum(), (b[np.isfinite(b)]**2).sum()) > 1e308:
        return None  # a sum of squares exceeds a double, and the measures are said to be unknown
    # The difference of two doubles rounds once.
    if not close(row["max_abs"], largest, ULP * largest) or not close(row["rmse"], mean, ulps * mean + TINY):
        return f"max_abs {row['max_abs']!r}, rmse {row['rmse']!r}, expected {largest!r}, {mean!r}"
    return None


@attack
def numbers(folder):
    """Random tensors of every plain type, with NaN of all kinds, -0, denormals and infinities: stats, show, diff and count against NumPy."""
    try:
        import numpy as np
    except ImportError:
        raise Skip("no numpy package") from None
    try:
        import ml_dtypes
    except ImportError:
        ml_dtypes = None
        print("    no ml_dtypes package: without BF16 and the types of less than 16 bits", file=sys.stderr)
    np.seterr(all="ignore")
    random_numbers = np.random.default_rng(13)
    kinds = {kind: (np.dtype(name), bits) for kind, (name, bits) in PLAIN.items()} \
        | ({kind: (np.dtype(getattr(ml_dtypes, name)), bits) for kind, (name, bits) in SMALL.items()} if ml_dtypes else {})

    def made(kind, shape):
        """The bytes of a tensor, and its elements; those of C64 are two numbers each."""
        dtype, bits = kinds[kind]
        count = int(np.prod(shape, dtype=np.int64))
        if bits < 8:
            codes = random_numbers.integers(0, 1 << bits, count).astype(np.uint8)
            body = np.packbits(np.unpackbits(codes[:, None], axis=1, count=bits, bitorder="little"), bitorder="little").tobytes()
            return body, codes.view(dtype)
        if kind == "BOOL":
            elements = random_numbers.integers(0, 2, count).astype(np.uint8)
            return elements.tobytes(), elements
        count *= 2 if kind == "C64" else 1
        elements = np.frombuffer(random_numbers.bytes(count * dtype.itemsize), dtype)  # with all that there is, if few have the exponent of NaN
        style = random_numbers.integers(6)
        if dtype.kind not in "iu" and kind != "F8_E8M0" and style:
            # Numbers as in models; beside a large mean; all one; small ones; and special ones among them.
            some = (random_numbers.normal(0, 1, count), random_numbers.normal(100, 1e-3, count), np.full(count, 0.1), random_numbers.normal(0, 1e-6, count), random_numbers.normal(0, 1, count))[style - 1]
            elements = some.astype(dtype)
            if style == 5:
                special = np.array([np.nan, -np.nan, 0.0, -0.0, np.inf, -np.inf, 1e-45, -6e-8, 5e-324, 2e-38, 448.0, 3.4e38, 1.0]).astype(dtype)
                places = random_numbers.random(count) < 0.2
                elements[places] = random_numbers.choice(special, places.sum())
        elif dtype.kind in "iu" and style > 3:
            elements = random_numbers.integers(0, 100, count).astype(dtype)
        return elements.tobytes(), elements

    def whole(path, tensors):
        entries, at = {}, 0
        for name, kind, shape, body in tensors:
            entries[name] = {"dtype": kind, "shape": shape, "data_offsets": [at, at + len(body)]}
            at += len(body)
        path.write_bytes(header(entries, b"".join(body for _, _, _, body in tensors)))

    def rows(*use):
        done = run(*use, "--json")
        return done, json.loads(done.stdout)["tensors"] if not wrong(done, (0, 1)) else []

    def shown(done, elements, kind):
        """What is wrong with the values of `show`: those of a slice, as NumPy has them."""
        flat, left = [], [json.loads(done.stdout)["values"]]
        while left:
            value = left.pop()
            left.extend(reversed(value)) if isinstance(value, list) else flat.append(value)
        expected = elements.reshape(-1)
        if len(flat) != len(expected):
            return f"{len(flat)} values, expected {len(expected)}"
        for got, number in zip(flat, expected):
            # Floats are as few digits as give the number again, in its own precision or in single precision.
            right = got is None if not np.isfinite(number) else got == bool(number) if kind == "BOOL" else got == int(number) if number.dtype.kind in "iu" \
                else (np.float64 if kind == "F64" else np.float32)(got).tobytes() == number.astype(np.float64 if kind == "F64" else np.float32).tobytes()
            if not right:
                return f"{got!r}, expected {number!r}"
        return None

    one, two, other = folder / "a.safetensors", folder / "b.safetensors", folder / "b.gguf"
    for turn in range(2 if ARGS.quick else 40):
        tensors, wide, changed = [], [], []
        for kind in kinds:
            shape = SHAPES[random_numbers.integers(len(SHAPES) - (0 if turn % 4 == 0 else 2))]
            if kinds[kind][1] < 8:
                shape = (*shape, 4)  # whole bytes
            name = f"t{len(tensors)}"
            body, elements = made(kind, shape)
            tensors.append((name, kind, shape, body, elements))
            # The same numbers in another type, so that they are compared and not the bytes; and some of them changed.
            same = elements.astype(np.float64) if elements.dtype.kind != "i" and elements.dtype.kind != "u" and kind != "C64" else elements
            wide.append((name, "F64" if same.dtype == np.float64 else kind, shape, same.tobytes()))
            others = np.where(random_numbers.random(elements.size) < 0.1, made(kind, shape)[1], elements).astype(elements.dtype)
            changed.append((name, kind, shape, others.astype(np.float64).tobytes() if kinds[kind][1] < 8 else others.tobytes(), others))
        whole(one, [tensor[:4] for tensor in tensors])
        exact = {name: elements.astype(np.longdouble) for name, _, _, _, elements in tensors}

        done, found = rows("stats", one)
        yield wrong(done, (0, 1)) or (None if len(found) == len(tensors) else f"stats: {len(found)} tensors")
        for row in found:
            problem = measured(np, exact[row["name"]], row)
            yield f"stats of {row['dtype']} {row['shape']}, {turn}: {problem}" if problem else None

        whole(two, wide)
        done, found = rows("diff", one, two, "--all")
        yield wrong(done, (0, 1)) or (None if len(found) == len(tensors) else f"diff: {len(found)} tensors")
        for row in found:
            problem = compared(np, exact[row["name"]], exact[row["name"]], row)
            yield f"diff of {row['dtype_a']} and {row['dtype_b']}, {turn}: {problem}" if problem else None

        whole(two, [(name, "F64" if kinds[kind][1] < 8 else kind, shape, body) for name, kind, shape, body, _ in changed])
        done, found = rows("diff", one, two, "--all")
        for row, (name, kind, _, _, others) in zip(found, changed):
            problem = compared(np, exact[name], others.astype(np.longdouble), row)
            yield f"diff of {kind} with another, {turn}: {problem}" if problem else None

        held = [(name, shape or (1,), body, GGML[kind]) for name, kind, shape, body, _ in tensors if kind in GGML and len(shape) <= 4]
        other.write_bytes(gguf([ARCH], held))
        done, found = rows("stats", other)
        yield wrong(done, (0, 1)) or (None if len(found) == len(held) else f"stats of a GGUF: {len(found)} tensors")
        for row in found:
            problem = measured(np, exact[row["name"]], row)
            yield f"stats of {row['dtype']} {row['shape']} in a GGUF, {turn}: {problem}" if problem else None

        for name, kind, shape, body, elements in tensors:
            number = elements.reshape(*shape, 2) if kind == "C64" else elements.reshape(shape)
            starts = [int(random_numbers.integers(max(size, 1))) for size in shape]
            use = ["--slice", ",".join(f"{start}:{start + 40 // len(shape)}:{1 + turn % 3}" for start in starts)] if number.size > 200 or turn % 2 and shape else []
            part = number[tuple(slice(start, start + 40 // len(shape), 1 + turn % 3) for start in starts)] if use else number
            done = run("show", one, name, *use, "--json")
            problem = wrong(done, (0,)) or shown(done, part, kind)
            yield f"show of {kind} {shape} {use}, {turn}: {problem}" if problem else None

        done = run("count", one, "--json")
        count = json.loads(done.stdout)
        totals = (sum(int(np.prod(shape, dtype=np.int64)) for _, _, shape, _, _ in tensors), sum(len(body) for _, _, _, body, _ in tensors))
        yield wrong(done, (0,)) or (None if (count["stored_elements"], count["bytes"]) == totals else f"count: {count['stored_elements']} elements, {count['bytes']} bytes, expected {totals}")

    for dimensions in (64, 65, 1000, 100_000):
        whole(one, [("t", "F32", [1] * (dimensions - 2) + [2, 3], floats(1.0, 2.0, float("nan"), -0.0, 5.0, 6.0))])
        done, found = rows("stats", one)
        yield wrong(done, (0, 1)) or measured(np, np.array([1, 2, np.nan, -0.0, 5, 6], np.longdouble), found[0])
        done, found = rows("diff", one, one, "--all")
        yield wrong(done, (0,)) or (None if found[0]["equal"] else f"{dimensions} dimensions: not equal to itself")
        for command in ("count", "ls", "verify", "hash"):
            yield wrong(run(command, one, "--json"), (0, 1), f"{command} of {dimensions} dimensions")
        yield wrong(run("show", one, "t"), (0, 2), f"show of {dimensions} dimensions")


# ---- against other readers

def mutants(seeds, count, mend=lambda body: None):
    """Seeds with bytes set, taken out, put in, doubled, and numbers replaced."""
    generator = random.Random(13)
    for _ in range(count):
        body = bytearray(generator.choice(seeds))
        for _ in range(generator.randrange(1, 4)):
            at = generator.randrange(len(body) or 1)
            kind = generator.randrange(5)
            if kind == 0 and body:
                body[at] = generator.randrange(256)
            elif kind == 1:
                del body[at:at + generator.randrange(1, 9)]
            elif kind == 2:
                body[at:at] = generator.choice([b'"', b"{", b"}", b",", b":", b"0", b"9", b"\x00", b"\xff", b" ", b"null", b"-1", b'"x":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},'])
            elif kind == 3:
                body[at:at + 8] = struct.pack("<Q", generator.choice([0, 1, 7, 8, 2**31, 2**32, 2**63, 2**64 - 1]))
            else:
                body[at:at] = body[at:at + generator.randrange(1, 32)]
        if generator.random() < 0.8:
            mend(body)
        yield bytes(body)


WIDTHS = {"F64": 8, "I64": 8, "U64": 8, "C64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "I8": 1, "U8": 1, "BOOL": 1}
PARTS = ["0", "1", "2", "-1", "1.0", "1e0", "01", "18446744073709551616", "null", "true", '""', "[]", "[[1]]", "{}"]


def headers(count):
    """Safetensors files of some tensors, most with one thing amiss or unusual: about half are sound."""
    generator = random.Random(14)
    for _ in range(count):
        entries, at, one_in = [], 0, generator.choice([12, 40, 200])

        def odd(usual, *others):  # each part is unusual now and then
            return generator.choice(others) if generator.randrange(one_in) == 0 else usual
        for number in range(generator.randrange(5)):
            kind = generator.choice(list(WIDTHS))
            shape = [generator.randrange(odd(4, 9)) for _ in range(generator.choice([0, 1, 1, 2, 3, 8]))]
            size = WIDTHS[kind]
            for dimension in shape:
                size *= dimension
            size = odd(size, size + 1, max(size - 1, 0), 2 * size)
            name = odd(f"t{number}", "t0", "", "__metadata__", "\\u0041", "\\ud800", "\\ud83d\\ude42", "é", "\t", "\\t", "a/b", "\x7f", 'x":1,"y')
            fields = [("dtype", odd(f'"{kind}"', f'"{kind.lower()}"', '"F31"', "1", *PARTS)), ("shape", f"[{','.join(odd(str(dimension), *PARTS) for dimension in shape)}]"),
                      ("data_offsets", odd(f"[{at},{at + size}]", f"[{at + size},{at}]", f"[{at}]", f"[{at},{at + size},0]", f"[{at}, {at + size}.0]", f"[{at + 8},{at + size + 8}]"))]
            fields += odd([], [("more", generator.choice(PARTS))], [generator.choice(fields)])
            if generator.randrange(4) == 0:
                generator.shuffle(fields)
            fields = odd(fields, fields[1:])
            entries.append(f'"{name}":' + odd("{%s}", *PARTS).replace("%s", ",".join(f'"{key}":{text_}' for key, text_ in fields)))
            at += size
        if generator.randrange(3) == 0:
            entries.insert(0, '"__metadata__":' + odd('{"k":"v"}', "{}", "null", '{"k":1}', '{"k":null}', '{"k":"v","k":"w"}', '{"":"\\u0000"}', '"k"', "[]"))
        if generator.randrange(3) == 0:
            generator.shuffle(entries)
        head = odd("", " ", "\ufeff", "x") + "{" + odd(",", ", ", ",\n", ",,", "").join(entries) + odd("}", "", ",}", "}}", "} x") + " " * generator.randrange(odd(9, 200))
        encoded = head.encode()
        length = odd(len(encoded), len(encoded) - 1, len(encoded) + 1, 0, 2**63)
        yield struct.pack("<Q", max(length, 0)) + odd(encoded, encoded.replace(b"t", b"\xff")) + bytes(odd(at, at + 1, max(at - 1, 0), at + 4096))


@attack
def safetensors_package(folder):
    """What weigh opens, the safetensors package opens as well."""
    try:
        from safetensors import safe_open
        import numpy  # noqa: F401, what it gives tensors as
    except ImportError:
        raise Skip("no safetensors package") from None
    seeds = [safetensors([("a", (2,), floats(1.0, 2.0)), ("b", (0,), b""), ("c", (), floats(3.0))], {"k": "v"}), safetensors([("x", (1, 2), bytes(4))], None, "F16"), header({})]
    path, counts = folder / "m.safetensors", [0, 0, 0]

    def mend(body):  # the length of the header, so that more than the length is looked at
        body[:8] = struct.pack("<Q", max(body.rfind(b"}") - 7, 0))
    count = 300 if ARGS.quick else 24_000
    for number, body in enumerate(itertools.chain(mutants(seeds, count // 4, mend), headers(count - count // 4))):
        path.write_bytes(body)
        ours = run("verify", path)  # `ls` lists types that the package does not know
        try:
            with safe_open(path, "numpy") as file:
                theirs = list(file.keys()) is not None
        except Exception:
            theirs = False
        counts[0 if theirs and ours.returncode == 0 else 1 if not theirs else 2] += 1
        yield wrong(ours, (0, 1, 2)) or (f"mutant {number}: opened, but the package refuses it: {body!r:.200}" if ours.returncode == 0 and not theirs else None)
    print(f"    both open {counts[0]}, the package refuses {counts[1]}, weigh alone refuses {counts[2]}", file=sys.stderr)


LLAMA_CHILD = """
import ctypes, sys
lib = ctypes.CDLL(sys.argv[1])
class Params(ctypes.Structure):
    _fields_ = [("no_alloc", ctypes.c_bool), ("ctx", ctypes.c_void_p)]
lib.gguf_init_from_file.restype, lib.gguf_init_from_file.argtypes = ctypes.c_void_p, [ctypes.c_char_p, Params]
for line in sys.stdin:
    print(int(bool(lib.gguf_init_from_file(line.strip().encode(), Params(True, None)))), flush=True)
"""


@attack
def llama_cpp(folder):
    """What llama.cpp refuses, weigh refuses or remarks on."""
    if not ARGS.llama:
        raise Skip("no --llama LIBRARY")
    seeds = [gguf([ARCH, ("a", U32, 7), ("b", ARRAY, (STRING, ["x", ""])), ("general.alignment", U32, 32), ("f", F32, 1.5), ("t", BOOL, True)], [("t", (2, 32), bytes(256)), ("u", (1,), floats(1.0))]),
             gguf([ARCH], [("t", (3,), floats(1.0, 2.0, 3.0))]), gguf([ARCH])]
    child = subprocess.Popen([sys.executable, "-c", LLAMA_CHILD, ARGS.llama], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    path, counts = folder / "m.gguf", {}
    for number, body in enumerate(mutants(seeds, 300 if ARGS.quick else 9000)):
        path.write_bytes(body)
        child.stdin.write(f"{path}\n")
        child.stdin.flush()
        theirs = child.stdout.readline().strip()
        if not theirs:
            raise Skip(f"the library crashed at mutant {number}")
        ours = run("verify", path, "--json")
        findings = json.loads(ours.stdout)["findings"] if ours.returncode in (0, 1) else ["refused"]
        verdict = "opens" if ours.returncode == 0 and not findings else "remarks" if ours.returncode == 0 else "refuses"
        counts[verdict, theirs] = counts.get((verdict, theirs), 0) + 1
        yield wrong(ours) or (f"mutant {number}: llama.cpp refuses it, verify has nothing to say: {body!r:.200}" if verdict == "opens" and theirs == "0" else None)
    child.kill()
    print(f"    (weigh, llama.cpp): {counts}", file=sys.stderr)


@attack
def sanitizer(folder):
    """A build with AddressSanitizer reads, shows, hashes, measures and converts fixtures and broken files, and writes every type."""
    if not ARGS.sanitized:
        raise Skip("no --sanitized BINARY")
    if b"AddressSanitizer" not in pathlib.Path(ARGS.sanitized).read_bytes():
        raise Skip(f"no AddressSanitizer in {ARGS.sanitized}")
    fixtures, options = pathlib.Path(__file__).resolve().parents[2] / "fixtures", "exitcode=99:detect_leaks=0:handle_sigbus=0:allocator_may_return_null=1"
    look = [["info"], ["ls", "--json"], ["count"], ["meta", "--full"], ["verify", "--data", "--json"], ["hash", "--content"], ["hash", "--algorithm", "xxh64"], ["stats", "--json"], ["report", "-o", folder / "page", "--force"]]
    convert = lambda path, *more: ["convert", path, folder / ("o.safetensors" if "safetensors" in more else "o.gguf"), "--force", *(option for option in more if option != "safetensors")]
    files = sorted(path for path in fixtures.rglob("*") if path.is_file())
    uses = [[command[0], path, *command[1:]] for path in files for command in look]
    uses += [use for path in sorted({path.parent for path in files}) for use in (["info", path], ["verify", "--data", path], ["stats", path], convert(path), ["convert", path, folder / "out", "--force"])]
    uses += [use for path in files if path.suffix in (".gguf", ".safetensors") for use in (convert(path), convert(path, "safetensors", "--type", "F16"), ["diff", path, path], ["diff", path, files[0]])]
    sources = [fixtures / "llama-tiny", *sorted(fixtures.glob("llama-tiny-q8*.gguf")), fixtures / "quants.safetensors"]
    uses += [convert(source, *([] if kind["ggml_id"] is not None else ["safetensors"]), "--type", kind["name"], "--allow-requantize") for source in sources for kind in written_types()]
    broken = folder / "broken"
    broken.mkdir()
    small = [path.read_bytes() for path in files if path.suffix in (".gguf", ".safetensors", ".json", ".imatrix", ".toml") and path.stat().st_size < 200_000]
    for number, body in enumerate(itertools.chain(mutants(small, 600), headers(300))):
        path = broken / f"{number}{'.gguf' if body[:4] == b'GGUF' else '.safetensors'}"
        path.write_bytes(body)
        uses += [[command[0], path, *command[1:]] for command in (look[4], look[6], look[7])] + [convert(path)]
    random.Random(3).shuffle(uses)
    for use in some(uses, 100):
        command = [ARGS.sanitized, *map(str, use)]
        try:
            done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=4 * TIME, env={**os.environ, "ASAN_OPTIONS": options})
        except subprocess.TimeoutExpired:
            yield f"{use}: not done in {4 * TIME} s"
            continue
        yield wrong(done, (0, 1, 2)) or (f"{use}: {done.stderr[:2000]!r}" if b"AddressSanitizer" in done.stderr else None)


# ---- dependencies

def version(text):
    """A version to compare; one before a release is lower than that."""
    numbers, _, before = text.partition("+")[0].partition("-")
    return tuple((list(map(int, numbers.split("."))) + [0, 0])[:3]), not before, before


def satisfies(given, requirement):
    """Whether a version meets all parts of a requirement of Cargo."""
    for sign, bound in re.findall(r"(>=|<=|[<>=^~]?)\s*(\d[^\s,]*)", requirement):
        low = version(bound)
        ends = [i for i, number in enumerate(low[0]) if number] or [2]
        fixed = low[0][:1 if sign == "~" and "." not in bound else 2 if sign == "~" else ends[0] + 1]  # the numbers that ~ and ^ hold
        met = {">=": given >= low, ">": given > low, "<=": given <= low, "<": given < low, "=": given == low}
        if not met.get(sign, given >= low and given[0][:len(fixed)] == fixed):
            return False
    return True


@attack
def dependencies(folder):
    """The packages of both Cargo.lock files against the advisories of RustSec."""
    if not ARGS.advisories:
        raise Skip("no --advisories CLONE of github.com/RustSec/advisory-db")
    import tomllib
    (folder / "tar").write_bytes(subprocess.run(["git", "-C", ARGS.advisories, "archive", "HEAD", "crates"], capture_output=True, check=True).stdout)
    known, seen = {}, set()
    with tarfile.open(folder / "tar") as tar:
        for file in tar:
            if file.name.endswith(".md"):
                found = tomllib.loads(tar.extractfile(file).read().decode().split("```toml")[1].split("```")[0])
                if "withdrawn" not in found["advisory"]:
                    known.setdefault(found["advisory"]["package"], []).append(found)

    def affecting(name, given):
        sound = lambda found: any(satisfies(version(given), text) for text in found["versions"].get("patched", []) + found["versions"].get("unaffected", []))
        return [found["advisory"]["id"] for found in known.get(name, []) if not sound(found)]

    for name, given in (("memmap2", "0.9.10"), ("time", "0.2.22"), ("smallvec", "1.6.0")):  # what is known to be affected is found
        yield None if affecting(name, given) else f"{name} {given}: no advisory"
    for lock in ("Cargo.lock", "fuzz/Cargo.lock"):
        for package in tomllib.loads((pathlib.Path(__file__).resolve().parents[2] / lock).read_text())["package"]:
            seen.update(found["advisory"]["id"] for found in known.get(package["name"], []))
            found = affecting(package["name"], package["version"])
            yield f"{lock}: {package['name']} {package['version']}: {', '.join(found)}" if found else None
    print(f"    {sum(map(len, known.values()))} advisories, {len(seen)} of them on packages of these names", file=sys.stderr)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("weigh")
    parser.add_argument("--quick", action="store_true", help="some of each: minutes instead of hours")
    parser.add_argument("--llama", help="llama.cpp's libggml-base.so")
    parser.add_argument("--sanitized", help="a weigh built with -Zsanitizer=address")
    parser.add_argument("--advisories", help="a clone of github.com/RustSec/advisory-db")
    parser.add_argument("--list", action="store_true", help="only say what there is")
    parser.add_argument("attack", nargs="*", metavar="ATTACK")
    parser.parse_intermixed_args(namespace=ARGS)
    ARGS.weigh = os.path.abspath(ARGS.weigh)
    if ARGS.list:
        print("\n".join(f"{name:26} {function.__doc__}" for name, function in ATTACKS.items()))
        return
    unknown = [name for name in ARGS.attack if name not in ATTACKS]
    if unknown:
        parser.error(f"expected {', '.join(ATTACKS)}, found {', '.join(unknown)}")
    rows, failed = [], False
    for name in ARGS.attack or ATTACKS:
        start, runs, faults = time.monotonic(), 0, []
        with tempfile.TemporaryDirectory(prefix="weigh-attack-") as folder:
            try:
                for fault in ATTACKS[name](pathlib.Path(folder)):
                    runs += 1
                    if fault:
                        faults.append(fault)
                        if len(faults) <= 20:
                            print(f"    {name}: {fault}", file=sys.stderr)
                result = f"{len(faults)} faults" if faults else "held"
            except Skip as reason:
                result = f"skipped after {runs}: {reason}" if runs else f"skipped: {reason}"
        rows.append((name, f"{runs:,}", f"{result} ({time.monotonic() - start:.0f} s)"))
        print(" | ".join(rows[-1]), file=sys.stderr, flush=True)
        failed |= bool(faults)
    print("| attack | runs | result |\n| --- | ---: | --- |")
    for row in rows:
        print(f"| {' | '.join(row)} |")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
