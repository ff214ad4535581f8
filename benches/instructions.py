#!/usr/bin/env python3
"""A guard against slower code that no clock disturbs: counts the instructions of the main kernels and of small commands under
callgrind, and compares them with those recorded in instructions.txt beside this file.

    python3 benches/instructions.py             # compare; fails if anything takes more than 3 % more
    python3 benches/instructions.py --update    # record

It needs valgrind. Valgrind knows AVX2 but not AVX-512, so the kernels counted are those for AVX2 (on AArch64, those for NEON). Other
compilers make other code: compare with the one that is named in the record, or record before a change and compare after it.
"""
import pathlib, re, subprocess, sys, tempfile

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent
RECORD = HERE / "instructions.txt"
TOLERANCE = 1.03

DECODE = "F16 BF16 Q4_0 Q5_1 Q8_0 Q2_K Q3_K Q4_K Q5_K Q6_K IQ1_M IQ2_XS IQ3_S IQ4_XS TQ1_0 MXFP4".split()
ENCODE = "F16 BF16 Q4_0 Q5_1 Q8_0 Q2_K Q3_K Q4_K Q5_K Q6_K IQ3_S IQ4_XS TQ1_0 MXFP4".split()
WEIGHTED = "Q4_0 Q5_1 Q3_K Q4_K Q6_K IQ1_S IQ2_XS IQ3_S IQ4_XS".split()

COMMANDS = [
    "--version",
    "types --json",
    "ls --json fixtures/llama-tiny",
    "info fixtures/llama-tiny",
    "count fixtures/llama-tiny",
    "stats fixtures/llama-tiny",
    "verify fixtures/llama-tiny",
    "hash fixtures/llama-tiny",
    "diff fixtures/llama-tiny fixtures/llama-tiny",
    "convert --quiet fixtures/llama-tiny OUT/out.gguf --type F16",
    "convert --quiet fixtures/llama-tiny OUT/out.gguf --type Q4_K_M",
]


def instructions(command):
    """Returns the number of instructions that callgrind counts, on one thread."""
    with tempfile.TemporaryDirectory() as folder:
        words = [word.replace("OUT", folder) for word in command]
        valgrind = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={folder}/callgrind"]
        run = subprocess.run([*valgrind, *words], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    found = re.search(r"refs:\s+([\d,]+)", run.stderr)
    if run.returncode or not found:
        sys.exit(f"{' '.join(command)}: {run.stderr}")
    return int(found[1].replace(",", ""))


def measured():
    subprocess.run(["cargo", "build", "--release", "--quiet", "--bins", "--examples"], cwd=ROOT, check=True)
    release = ROOT / "target" / "release"
    for work, types in (("decode", DECODE), ("encode", ENCODE), ("weighted", WEIGHTED)):
        for name in types:
            yield f"{work} {name}", instructions([str(release / "examples" / "kernel"), work, name])
    for command in COMMANDS:
        yield command, instructions([str(release / "weigh"), "--threads", "1", *command.split()])


def main():
    compiler = subprocess.run(["rustc", "--version"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    if sys.argv[1:] == ["--update"]:
        lines = [f"{count:>13,}  {name}\n" for name, count in measured()]
        RECORD.write_text(f"{compiler}\n" + "".join(lines))
        return
    first, *lines = RECORD.read_text().splitlines()
    if first != compiler:
        print(f"recorded with {first}, now {compiler}")
    recorded = {name: int(count.replace(",", "")) for count, name in (line.split(None, 1) for line in lines)}
    worse = 0
    for name, count in measured():
        before = recorded.get(name)
        ratio = count / before if before else 1.0
        mark = "MORE" if ratio > TOLERANCE else "less" if ratio < 1 / TOLERANCE else ""
        worse += ratio > TOLERANCE
        print(f"{count:>13,}  {ratio - 1:+7.1%}  {name}  {mark if before else 'new'}".rstrip(), flush=True)
    sys.exit(f"{worse} take more than {TOLERANCE - 1:.0%} more" if worse else 0)


if __name__ == "__main__":
    main()
