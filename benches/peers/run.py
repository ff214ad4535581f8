#!/usr/bin/env python3
"""Runs weigh and comparable programs, records the results in results.json, and writes the tables of BENCHMARKS.md. See README.md."""
import argparse, contextlib, dataclasses, fcntl, glob, json, os, pathlib, platform, shlex, statistics, subprocess, sys, tempfile, time, venv

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent


@dataclasses.dataclass
class Job:
    """A row: a weigh command, the commands it is compared with, and the target."""
    name: str
    ours: str
    peers: list  # of (label, command)
    target: str = ""
    rounds: int = 5  # none: the run that shows that it works is the one that counts
    outputs: tuple = ()  # (ours, theirs): GGUF files whose tensors must be equal
    clean: tuple = ()  # files removed before every run


def sh(command, **options):
    return subprocess.run(command, shell=isinstance(command, str), check=True, **options)


class Peers:
    """The programs installed from the registries, once, into the work folder."""

    def __init__(self, work: pathlib.Path):
        self.work = work
        environment = work / "venv"
        if not environment.exists():
            venv.create(environment, with_pip=True)
        self.python = environment / "bin" / "python"
        self.pip = [str(environment / "bin" / "pip")]
        if not (environment / ".done").exists():
            sh([*self.pip, "install", "-q", "numpy", "gguf", "libgguf", "safetensors", "sentencepiece", "torch", "transformers"])
            (environment / ".done").touch()
        self.gguf_dump = environment / "bin" / "gguf-dump"
        self.gguf_utils = work / "cargo" / "bin" / "gguf-utils"
        if not self.gguf_utils.exists():
            sh(["cargo", "install", "-q", "gguf-utils", "--root", str(work / "cargo")])
        self.gguf_view = work / "npm" / "node_modules" / ".bin" / "gguf-view"
        if not self.gguf_view.exists():
            sh(["npm", "install", "--silent", "--prefix", str(work / "npm"), "@huggingface/gguf"])
        self.llama = self.build_llama()

    def build_llama(self) -> pathlib.Path:
        """Builds llama.cpp from the source distribution of llama-cpp-python."""
        build = self.work / "llama-build"
        source = next(iter(glob.glob(str(self.work / "llama_cpp_python-*/vendor/llama.cpp"))), None)
        if source is None:
            sh([*self.pip, "download", "-q", "--no-deps", "--no-binary", "llama-cpp-python", "-d", str(self.work), "llama-cpp-python"])
            sh(f"tar xzf {self.work}/llama_cpp_python-*.tar.gz -C {self.work}")
            source = glob.glob(str(self.work / "llama_cpp_python-*/vendor/llama.cpp"))[0]
            sh(["find", source, "-exec", "touch", "-d", "2025-01-01", "{}", "+"])
        self.convert = pathlib.Path(source) / "convert_hf_to_gguf.py"
        if not (build / "bin" / "llama-gguf-hash").exists():
            options = "-DCMAKE_BUILD_TYPE=Release -DLLAMA_CURL=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_SERVER=OFF -DLLAMA_OPENSSL=OFF"
            sh(f"cmake -S {source} -B {build} -G Ninja {options} > {build}.log")
            sh(f"ninja -C {build} llama-quantize llama-gguf-hash >> {build}.log")
        return build / "bin"


def timed(command: str) -> float:
    """Returns the seconds of one run, measured by hyperfine without a shell."""
    with tempfile.NamedTemporaryFile() as out:
        sh(["hyperfine", "-N", "-i", "--runs", "1", "--warmup", "0", "--style", "none", "--export-json", out.name, command],
           stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return json.load(open(out.name))["results"][0]["median"]


def peak_anonymous(command: str) -> float:
    """Returns the peak anonymous memory of one run in MiB. It is sampled, hence a lower bound; pages of mapped files are not counted."""
    process = subprocess.Popen(shlex.split(command), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    peak = 0
    while process.poll() is None:
        try:
            for line in open(f"/proc/{process.pid}/status"):
                if line.startswith("RssAnon:"):
                    peak = max(peak, int(line.split()[1]))
        except (FileNotFoundError, ProcessLookupError):
            break
        time.sleep(0.002)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return peak / 1024


def remove(paths):
    for path in paths:
        pathlib.Path(path).unlink(missing_ok=True)


COMPARE = """
import sys
from gguf import GGUFReader
a, b = ({t.name: t for t in GGUFReader(p).tensors} for p in sys.argv[1:3])
assert a.keys() == b.keys(), "other tensors"
bad = [n for n in b if a[n].tensor_type != b[n].tensor_type or a[n].data.tobytes() != b[n].data.tobytes()]
sys.exit(f"{len(bad)} tensors differ: {bad[:3]}" if bad else 0)
"""


def run(job: Job, peers: Peers, rounds: int | None) -> dict:
    commands = [("weigh", job.ours), *job.peers]
    times = {label: [] for label, _ in commands}
    remove(job.clean)
    first = {}
    for label, command in commands:  # warm the page cache, and let every command show that it works
        start = time.perf_counter()
        sh(shlex.split(command), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        first[label] = time.perf_counter() - start
    same = ""
    if job.outputs:
        found = subprocess.run([str(peers.python), "-c", COMPARE, *job.outputs], capture_output=True, text=True)
        same = "equal" if found.returncode == 0 else found.stderr.strip() or "compare failed"
    if job.rounds == 0:
        times = {label: [seconds] for label, seconds in first.items()}
    for _ in range(rounds or job.rounds if job.rounds else 0):
        remove(job.clean)
        for label, command in commands:
            times[label].append(timed(command))
    remove(job.clean)
    ours = statistics.median(times["weigh"])
    ratios = {label: statistics.median(a / b for a, b in zip(times[label], times["weigh"])) for label, _ in job.peers}
    return {"seconds": ours, "peers": {label: statistics.median(times[label]) for label, _ in job.peers},
            "ratios": ratios, "output": same, "target": job.target}


def jobs(work: pathlib.Path, peers: Peers, weigh: str) -> list:
    import inputs
    gemma = inputs.gemma(work, peers.pip)
    model = inputs.llama(work, peers.pip, "llama-1b", inputs.Shape())
    shards, sparse = inputs.many_shards(work), inputs.sparse_gguf(work, "sparse-141gb.gguf", 723, 195_035_136)
    example = ROOT / "target" / "release" / "examples"
    made = lambda name: str(work / name)
    f16, f32, bf16, q4k = (made(f"llama-1b-{kind}.gguf") for kind in ("F16", "F32", "BF16", "Q4_K"))
    for path, kind in ((bf16, "BF16"), (f16, "F16"), (f32, "F32")):
        if not os.path.exists(path):
            sh(f"{weigh} convert --quiet --keep-names {model} {path} --type {kind}")
    arch_f16 = made("llama-1b-arch-F16.gguf")  # with llama.cpp's names, as llama-quantize wants them
    if not os.path.exists(arch_f16):
        sh(f"{weigh} convert --quiet {model} {arch_f16} --type F16")
    if not os.path.exists(q4k):
        sh(f"{weigh} convert --quiet {arch_f16} {q4k} --type Q4_K --pure --no-quality")
    out, theirs = made("out.gguf"), made("theirs.gguf")
    # Quantised files are written to a RAM disk if there is room: weigh syncs its output and llama-quantize does not, so that a slow disk
    # would dominate the measurement.
    memory = memory_folder(work)
    fast, fast_theirs = str(memory / "out.gguf"), str(memory / "theirs.gguf")
    small = made("llama-2-layers-F16.gguf")
    if not os.path.exists(small):
        folder = inputs.llama(work, peers.pip, "llama-2-layers", inputs.Shape(layers=2))
        sh(f"{weigh} convert --quiet {folder} {small} --type F16")
    imatrix = made("imatrix.gguf")
    if not os.path.exists(imatrix):
        sh([str(peers.python), str(HERE / "imatrix.py"), arch_f16, imatrix])

    rows = [
        Job("--version", f"{weigh} --version", [("true", "true")], "2 ms", 20),
        Job("ls --json, 253 MB GGUF", f"{weigh} ls --json {gemma}",
            [("gguf-utils show", f"{peers.gguf_utils} show {gemma}"), ("gguf-view", f"{peers.gguf_view} {gemma}"), ("gguf-dump", f"{peers.gguf_dump} {gemma}")],
            "at most 5 ms, ahead of each", 3),
        Job("info, 253 MB GGUF", f"{weigh} info {gemma}", [("gguf-utils show", f"{peers.gguf_utils} show {gemma}")], "at most 5 ms", 20),
        Job("ls --json, 100 shards of 60,000 tensors", f"{weigh} ls --json {shards}", [("python safetensors", f"{peers.python} {HERE / 'list_safetensors.py'} {shards}")], "under 100 ms, ahead", 5),
        Job("ls, 100 shards of 60,000 tensors, table", f"{weigh} ls {shards}", [("python safetensors", f"{peers.python} {HERE / 'list_safetensors.py'} {shards}")], "under 100 ms, ahead", 5),
        Job("ls, 141 GB sparse GGUF", f"{weigh} ls --json {sparse}", [("gguf-utils show", f"{peers.gguf_utils} show {sparse}")], "under 100 ms", 20),
    ]
    for path, kind in ((bf16, "BF16"), (f16, "F16"), (f32, "F32"), (q4k, "Q4_K")):
        rows.append(Job(f"stats, {kind}", f"{weigh} stats --json {path}", [("read and sum", f"{example / 'read_sum'} {path}")],
                        "ratio at least 0.8" if kind != "Q4_K" else "the rate of decode"))
    for source, kind in ((bf16, "BF16"), (f16, "F16")):
        rows.append(Job(f"convert BF16 safetensors to {kind} GGUF", f"{weigh} convert --quiet --keep-names {model} {out} --type {kind}",
                        [("cp", f"cp {source} {theirs}")], "ratio at least 0.77 (1.3x cp)", clean=(out, theirs)))
    rows.append(Job("convert HF to F16 GGUF", f"{weigh} convert --quiet {model} {out} --type F16",
                    [("convert_hf_to_gguf.py", f"{peers.python} {peers.convert} {model} --outtype f16 --outfile {theirs}")], "ahead", 0, (out, theirs), (out, theirs)))
    tiny = inputs.llama(work, peers.pip, "llama-35mb", inputs.Shape(1, 256, 704, 4, 2))
    rows.append(Job("convert a HF folder of 35 MB to GGUF", f"{weigh} convert --quiet {tiny} {out}",
                    [("convert_hf_to_gguf.py", f"{peers.python} {peers.convert} {tiny} --outfile {theirs}")], "under 0.1 s", 3, (out, theirs), (out, theirs)))
    quantise = lambda kind, least, rounds, model=arch_f16, extra="": rows.append(
        Job(f"F16 to {kind}{', with imatrix, 2 layers' if extra else ''}", f"{weigh} convert --quiet --no-quality --threads 2 {model} {fast} --type {kind} {extra}",
            [("llama-quantize", f"{peers.llama / 'llama-quantize'} {extra} {model} {fast_theirs} {kind} 2")], f"at least {least}x, the same bytes", rounds,
            (fast, fast_theirs), (fast, fast_theirs)))
    for kind in ("Q8_0", "Q4_0"):
        quantise(kind, 4, 3)
    for kind in ("Q4_K_M", "Q5_K_M", "Q6_K", "Q3_K_M", "Q2_K"):
        quantise(kind, 8, 1)  # after one that is not counted: it pays for the memory that the outputs take
    for kind in ("IQ4_XS", "IQ3_S", "IQ2_XS"):
        quantise(kind, 4, 0, small, f"--imatrix {imatrix}")
    copy = made("llama-1b-arch-F16-copy.gguf")
    if not os.path.exists(copy):
        sh(["cp", arch_f16, copy])
    rows += [
        Job("diff of two 2.2 GB files", f"{weigh} diff --json {arch_f16} {copy}", [("read and sum both", f"{example / 'read_sum'} {arch_f16} {copy}")], "the rate of the reads"),
        Job("hash sha256", f"{weigh} hash {arch_f16}", [("sha256sum", f"sha256sum {arch_f16}"), ("llama-gguf-hash", f"{peers.llama / 'llama-gguf-hash'} --sha256 {arch_f16}")], "the rate of the hash"),
        Job("hash xxh64", f"{weigh} hash --algorithm xxh64 {arch_f16}", [("llama-gguf-hash", f"{peers.llama / 'llama-gguf-hash'} --xxh64 {arch_f16}")], "the rate of the reads"),
    ]
    return rows


def memory_folder(work: pathlib.Path) -> pathlib.Path:
    """Returns a folder in memory with room for two outputs, or else the work folder."""
    shared = pathlib.Path("/dev/shm")
    if not shared.is_dir() or os.statvfs(shared).f_bavail * os.statvfs(shared).f_frsize < 8 << 30:
        return work
    (shared / "weigh-peers").mkdir(exist_ok=True)
    return shared / "weigh-peers"


def memory(work: pathlib.Path, weigh: str) -> dict:
    """Returns the peak anonymous memory of every command on the 2.2 GB model, in MiB."""
    model, f16, copy, imatrix = (work / name for name in ("llama-1b", "llama-1b-arch-F16.gguf", "llama-1b-arch-F16-copy.gguf", "imatrix.gguf"))
    out = memory_folder(work) / "out.gguf"
    small = work / "llama-2-layers-F16.gguf"
    commands = [f"info {f16}", f"ls {f16}", f"count {f16}", f"stats {f16}", f"show {f16} output.weight --slice 0:4,:8", f"meta {f16}", f"hist {f16} output.weight",
                f"diff {f16} {copy}", f"verify {f16}", f"verify --data {f16}", f"hash {f16}", f"hash --content {f16}", f"report {f16} -o {out}",
                f"convert {model} {out} --type F16", f"convert {f16} {out} --type Q8_0", f"convert {f16} {out} --type Q4_K_M",
                f"convert {small} {out} --type IQ4_XS --imatrix {imatrix}", f"convert {small} {out} --type IQ2_XS --imatrix {imatrix}"]
    peaks = {}
    for command in commands:
        remove([out])
        name = " ".join(word.removeprefix(f"{work}/") if word.startswith("/") and word != str(out) else "OUT" if word == str(out) else word for word in command.split())
        peaks[name] = peak_anonymous(f"{weigh} --quiet {command}")
        print(name, round(peaks[name], 1), file=sys.stderr, flush=True)
    remove([out])
    return peaks


def median_of(command: str, rounds: int, clean=()) -> float:
    times = []
    for _ in range(rounds):
        remove(clean)
        times.append(timed(command))
    remove(clean)
    return statistics.median(times)


def scaling(work: pathlib.Path, weigh: str) -> dict:
    """Returns the seconds of jobs on the 2.2 GB model with 1, 2 and 4 threads."""
    f16, copy, out = work / "llama-1b-arch-F16.gguf", work / "llama-1b-arch-F16-copy.gguf", memory_folder(work) / "out.gguf"
    jobs = {"stats, F16": f"stats --json {f16}", "diff of equal files": f"diff --json {f16} {copy}", "hash sha256": f"hash {f16}",
            "F16 to Q8_0": f"convert --no-quality {f16} {out} --type Q8_0", "F16 to Q4_K_M": f"convert --no-quality {f16} {out} --type Q4_K_M"}
    return {name: {threads: median_of(f"{weigh} --quiet --threads {threads} {job}", 3, [out]) for threads in (1, 2, 4)} for name, job in jobs.items()}


def sizes(work: pathlib.Path, weigh: str) -> dict:
    """Returns the seconds by file size, for sparse F16 GGUF files of 0.1, 1 and 10 GB."""
    import inputs
    found = {"ls": {}, "stats": {}, "hash xxh64": {}}
    for gigabytes in (0.1, 1, 10):
        file = inputs.sparse_gguf(work, f"sparse-{gigabytes:g}gb.gguf", int(gigabytes * 60), 16 << 20)
        sh([weigh, "stats", "--json", str(file)], stdout=subprocess.DEVNULL)  # into the page cache
        for name, job in (("ls", "ls"), ("stats", "stats --json"), ("hash xxh64", "hash --algorithm xxh64")):
            found[name][f"{gigabytes:g}"] = median_of(f"{weigh} {job} {file}", 3)
    return found


def codecs(peers: Peers) -> str:
    """Returns the speedups over libgguf for decoding and encoding every type."""
    command = [str(peers.python), str(HERE / "codecs.py"), str(ROOT / "target" / "release" / "examples" / "codec_rate")]
    return sh(command, capture_output=True, text=True).stdout


def machine(weigh: str, peers: Peers) -> dict:
    cpu = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), platform.processor())
    flags = next((line for line in open("/proc/cpuinfo") if line.startswith("flags")), "")
    package = lambda name: f"{name} {version([str(peers.python), '-c', f'import importlib.metadata as m; print(m.version({name!r}))'])}"
    return {
        "cpu": f"{cpu}, {os.cpu_count()} cores, {'AVX-512' if 'avx512f' in flags else 'AVX2' if 'avx2' in flags else 'no AVX2'}, Linux {platform.release()}",
        "versions": ", ".join([version([weigh, "--version"]), version(["rustc", "--version"]), *map(package, ("gguf", "libgguf", "safetensors", "torch")),
                               f"llama-cpp-python {pathlib.Path(peers.convert).parents[2].name.rpartition('-')[2]}", version([str(peers.gguf_utils), "--version"])]),
        "binary_bytes": os.path.getsize(weigh),
    }


def version(command) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True).stdout.strip().splitlines()[0]
    except (OSError, IndexError):
        return "?"


PARTS = ("jobs", "memory", "scaling", "sizes", "codecs")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=pathlib.Path, required=True)
    parser.add_argument("--part", choices=PARTS, action="append", help="only this part; may be given several times")
    parser.add_argument("--only", help="jobs whose name contains this")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--weigh", type=pathlib.Path, help="measure this program instead of building one")
    parser.add_argument("--lock", help="a file that is locked while something is timed, where others measure on the same machine")
    arguments = parser.parse_args()
    work = arguments.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    sys.path.insert(0, str(HERE))
    import tables
    if arguments.weigh is None:
        sh("cargo build --release --examples --bins -q", cwd=ROOT)
    weigh = str((arguments.weigh or ROOT / "target" / "release" / "weigh").resolve())
    peers = Peers(work)
    record = tables.load()
    record["machine"] = machine(weigh, peers)
    parts = arguments.part or (["jobs"] if arguments.only else PARTS)
    if "jobs" in parts:
        for job in jobs(work, peers, weigh):
            if arguments.only and arguments.only not in job.name:
                continue
            print(job.name, "...", file=sys.stderr, flush=True)
            with locked(arguments.lock):
                try:
                    record["jobs"][job.name] = run(job, peers, arguments.rounds)
                except subprocess.CalledProcessError as error:
                    record["jobs"][job.name] = {"error": str(error)}
            print(json.dumps(record["jobs"][job.name]), file=sys.stderr, flush=True)
            tables.save(record)
    for part, measure in (("memory", lambda: memory(work, weigh)), ("scaling", lambda: scaling(work, weigh)), ("sizes", lambda: sizes(work, weigh)),
                          ("codecs", lambda: codecs(peers))):
        if part in parts:
            print(part, "...", file=sys.stderr, flush=True)
            with locked(arguments.lock):
                record[part] = measure()
            tables.save(record)
    tables.write(record)


@contextlib.contextmanager
def locked(path):
    if path is None:
        yield
        return
    with open(path, "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    main()
