#!/usr/bin/env python3
"""Runs weigh beside its peers and writes the table of BENCHMARKS.md. See README.md beside this file."""
import argparse, dataclasses, glob, json, os, pathlib, platform, shlex, statistics, subprocess, sys, tempfile, threading, time, venv

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent


@dataclasses.dataclass
class Job:
    """One row: a command of weigh's, those that it is held against, and the figure to reach."""
    name: str
    ours: str
    peers: list  # of (label, command)
    target: str = ""
    rounds: int = 5
    outputs: tuple = ()  # (ours, theirs): GGUF files whose tensors must be equal
    clean: tuple = ()  # files removed before every run


def sh(command, **options):
    return subprocess.run(command, shell=isinstance(command, str), check=True, **options)


class Peers:
    """What is installed from the registries, once, into the work folder."""

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
        """llama.cpp as the source distribution of llama-cpp-python carries it."""
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
    """Seconds of one run, measured by hyperfine without a shell."""
    with tempfile.NamedTemporaryFile() as out:
        sh(["hyperfine", "-N", "-i", "--runs", "1", "--warmup", "0", "--style", "none", "--export-json", out.name, command],
           stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return json.load(open(out.name))["results"][0]["median"]


def peak_anonymous(command: str) -> float:
    """The largest anonymous memory of one run, in MiB: sampled, so a floor; pages of mapped files do not count."""
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
    for label, command in commands:  # warm the page cache, and let every command show that it works
        sh(shlex.split(command) if label == "weigh" else command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    same = ""
    if job.outputs:
        found = subprocess.run([str(peers.python), "-c", COMPARE, *job.outputs], capture_output=True, text=True)
        same = "equal" if found.returncode == 0 else found.stderr.strip() or "compare failed"
    for _ in range(rounds or job.rounds):
        remove(job.clean)
        for label, command in commands:
            times[label].append(timed(command))
    remove(job.clean)
    memory = peak_anonymous(job.ours)
    remove(job.clean)
    ours = statistics.median(times["weigh"])
    ratios = {label: statistics.median(a / b for a, b in zip(times[label], times["weigh"])) for label, _ in job.peers}
    return {"job": job.name, "seconds": ours, "peers": {label: statistics.median(times[label]) for label, _ in job.peers},
            "ratios": ratios, "peak_anonymous_mib": memory, "output": same, "target": job.target}


def jobs(work: pathlib.Path, peers: Peers, weigh: str) -> list:
    sys.path.insert(0, str(HERE))
    import inputs
    gemma = inputs.gemma(work, peers.pip)
    model = inputs.llama_1b(work, peers.pip)
    shards, sparse = inputs.many_shards(work), inputs.sparse_gguf(work)
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
    imatrix = made("imatrix.gguf")
    if not os.path.exists(imatrix):
        sh([str(peers.python), str(HERE / "imatrix.py"), arch_f16, imatrix])

    rows = [
        Job("ls --json, 253 MB GGUF", f"{weigh} ls --json {gemma}",
            [("gguf-utils show", f"{peers.gguf_utils} show {gemma}"), ("gguf-view", f"{peers.gguf_view} {gemma}"), ("gguf-dump", f"{peers.gguf_dump} {gemma}")],
            "at most 5 ms, ahead of each", 3),
        Job("info, 253 MB GGUF", f"{weigh} info {gemma}", [("gguf-utils show", f"{peers.gguf_utils} show {gemma}")], "at most 5 ms", 20),
        Job("ls, 100 shards of 60,000 tensors", f"{weigh} ls --json {shards}", [("python safetensors", f"{peers.python} {HERE / 'list_safetensors.py'} {shards}")], "under 100 ms, ahead", 5),
        Job("ls, 141 GB sparse GGUF", f"{weigh} ls --json {sparse}", [("gguf-utils show", f"{peers.gguf_utils} show {sparse}")], "under 100 ms", 20),
        Job("--version", f"{weigh} --version", [("true", "true")], "2 ms", 20),
    ]
    for path, kind in ((bf16, "BF16"), (f16, "F16"), (f32, "F32"), (q4k, "Q4_K")):
        rows.append(Job(f"stats, {kind}", f"{weigh} stats --json {path}", [("read and sum", f"{example / 'read_sum'} {path}")],
                        "ratio at least 0.8" if kind != "Q4_K" else "the rate of decode"))
    for source, kind in ((bf16, "BF16"), (f16, "F16")):
        rows.append(Job(f"convert BF16 safetensors to {kind} GGUF", f"{weigh} convert --quiet --keep-names {model} {out} --type {kind}",
                        [("cp", f"cp {source} {theirs}")], "ratio at least 0.77 (1.3x cp)", clean=(out, theirs)))
    rows.append(Job("convert HF to F16 GGUF", f"{weigh} convert --quiet {model} {out} --type F16",
                    [("convert_hf_to_gguf.py", f"{peers.python} {peers.convert} {model} --outtype f16 --outfile {theirs}")], "", 1, (out, theirs), (out, theirs)))
    quantise = lambda kind, least, extra="": rows.append(
        Job(f"F16 to {kind}{' with imatrix' if extra else ''}", f"{weigh} convert --quiet --no-quality --threads 2 {arch_f16} {out} --type {kind} {extra}",
            [("llama-quantize", f"{peers.llama / 'llama-quantize'} {extra} {arch_f16} {theirs} {kind} 2")], f"at least {least}x, the same bytes", 3, (out, theirs), (out, theirs)))
    for kind in ("Q8_0", "Q4_0"):
        quantise(kind, 4)
    for kind in ("Q4_K_M", "Q5_K_M", "Q6_K", "Q3_K_M", "Q2_K"):
        quantise(kind, 8)
    for kind in ("IQ4_XS", "IQ3_S", "IQ2_XS"):
        quantise(kind, 4, f"--imatrix {imatrix}")
    copy = made("llama-1b-arch-F16-copy.gguf")
    if not os.path.exists(copy):
        sh(["cp", arch_f16, copy])
    rows += [
        Job("diff of two 2.2 GB files", f"{weigh} diff --json {arch_f16} {copy}", [("read and sum both", f"{example / 'read_sum'} {arch_f16} {copy}")], "the rate of the reads"),
        Job("hash sha256", f"{weigh} hash {arch_f16}", [("sha256sum", f"sha256sum {arch_f16}"), ("llama-gguf-hash", f"{peers.llama / 'llama-gguf-hash'} --sha256 {arch_f16}")], "the rate of the hash"),
        Job("hash xxh64", f"{weigh} hash --algorithm xxh64 {arch_f16}", [("llama-gguf-hash", f"{peers.llama / 'llama-gguf-hash'} --xxh64 {arch_f16}")], "the rate of the reads"),
    ]
    return rows


def version(command) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True).stdout.strip().splitlines()[0]
    except (OSError, IndexError):
        return "?"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=pathlib.Path, required=True)
    parser.add_argument("--only", help="jobs whose name contains this")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--json", type=pathlib.Path, help="write the figures here as well")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    sh("cargo build --release --examples --bins -q", cwd=ROOT)
    weigh = str(ROOT / "target" / "release" / "weigh")
    peers = Peers(arguments.work)
    results = []
    for job in jobs(arguments.work, peers, weigh):
        if arguments.only and arguments.only not in job.name:
            continue
        print(job.name, "...", file=sys.stderr, flush=True)
        try:
            results.append(run(job, peers, arguments.rounds))
        except subprocess.CalledProcessError as error:
            results.append({"job": job.name, "error": str(error)})
        print(json.dumps(results[-1]), file=sys.stderr, flush=True)
    cpu = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), platform.processor())
    print(f"Machine: {cpu}, {os.cpu_count()} cores, Linux {platform.release()}. {version([weigh, '--version'])}, {version(['rustc', '--version'])}, "
          f"{version([str(peers.python), '-m', 'pip', 'show', 'gguf'])} from PyPI, {version([str(peers.gguf_utils), '--version'])}.\n")
    print("| job | weigh | peer | times weigh's | to reach | peak anonymous | output |\n| --- | --: | --- | --: | --- | --: | --- |")
    for row in results:
        if "error" in row:
            print(f"| {row['job']} | failed: {row['error'][:80]} | | | | | |")
            continue
        for label, seconds in row["peers"].items():
            print(f"| {row['job']} | {row['seconds']:.4g} s | {label}: {seconds:.4g} s | {row['ratios'][label]:.2f} | {row['target']} | {row['peak_anonymous_mib']:.0f} MiB | {row['output']} |")
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
