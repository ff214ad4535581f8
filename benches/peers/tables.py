"""Writes the results recorded in results.json: the tables between the marks in BENCHMARKS.md, and docs/scaling.svg."""
import json, math, pathlib, re

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
RECORD = HERE / "results.json"
PAGE = ROOT / "BENCHMARKS.md"


def load() -> dict:
    empty = {"jobs": {}, "memory": {}, "scaling": {}, "sizes": {}, "codecs": ""}
    return empty | (json.loads(RECORD.read_text()) if RECORD.exists() else {})


def save(record: dict):
    RECORD.write_text(json.dumps(record, indent=1) + "\n")


def seconds(number: float) -> str:
    return f"{number * 1e3:.3g} ms" if number < 1 else f"{number:.3g} s"


def table(head: list, rows: list) -> str:
    lines = [head, ["---"] + ["--:"] * (len(head) - 1), *rows]
    return "".join("| " + " | ".join(map(str, line)) + " |\n" for line in lines)


def jobs(record: dict) -> str:
    rows = []
    for name, job in record["jobs"].items():
        if "error" in job:
            rows.append([name, "failed", job["error"][:60], "", "", ""])
            continue
        for label, peer in job["peers"].items():
            rows.append([name, seconds(job["seconds"]), f"{label} {seconds(peer)}", f"{job['ratios'][label]:.2f}", job["target"], job["output"]])
    return table(["job", "weigh", "compared with", "ratio", "target", "output"], rows)


def memory(record: dict) -> str:
    return table(["command", "MiB"], [[f"`{name}`", f"{peak:.1f}"] for name, peak in record["memory"].items()])


def by(record: dict, part: str, what: str) -> str:
    keys = list(next(iter(record[part].values()), {}))
    return table([what, *keys], [[name, *(seconds(row[key]) for key in keys)] for name, row in record[part].items()])


def plot(record: dict) -> str:
    """Draws two panels: speedup by number of threads, and seconds by size, both on logarithmic axes."""
    colours = ["#4c78a8", "#f58518", "#54a24b", "#e45756", "#b279a2"]
    out = ['<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 900 330" role="img" aria-label="Speed on 1, 2 and 4 threads; time by size of the file.">'
           "<style>text{font:12px system-ui,sans-serif;fill:#333}.axis{stroke:#999}@media(prefers-color-scheme:dark){text{fill:#ddd}}</style>"]

    def panel(left, title, series, ticks_x, ticks_y, label_x, label_y):
        width, height, top = 240, 230, 40
        span = lambda ticks: (math.log(min(ticks)), math.log(max(ticks)))
        (x0, x1), (y0, y1) = span(ticks_x), span(ticks_y)
        x = lambda value: left + width * (math.log(value) - x0) / (x1 - x0)
        y = lambda value: top + height - height * (math.log(value) - y0) / (y1 - y0)
        out.append(f'<text x="{left}" y="20" font-weight="bold">{title}</text>')
        out.append(f'<path class="axis" fill="none" d="M{left} {top}V{top + height}H{left + width}"/>')
        out.extend(f'<text x="{x(tick):.0f}" y="{top + height + 16}" text-anchor="middle">{label_x(tick)}</text>' for tick in ticks_x)
        out.extend(f'<text x="{left - 6}" y="{y(tick) + 4:.0f}" text-anchor="end">{label_y(tick)}</text>' for tick in ticks_y)
        for i, (name, points) in enumerate(series.items()):
            colour = colours[i % len(colours)]
            places = [(x(a), y(b)) for a, b in points]
            out.append(f'<polyline fill="none" stroke="{colour}" stroke-width="2" points="{" ".join(f"{a:.1f},{b:.1f}" for a, b in places)}"/>')
            out.extend(f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3" fill="{colour}"/>' for a, b in places)
            out.append(f'<text x="{left + width + 12}" y="{top + 14 + 18 * i}" style="fill:{colour}">{name}</text>')

    faster = {name: [(int(threads), row["1"] / value) for threads, value in row.items()] for name, row in record["scaling"].items()}
    panel(50, "Times as fast as on one thread, 2.2 GB", faster, [1, 2, 4], [0.5, 1, 2, 4], lambda tick: f"{tick} threads" if tick > 1 else "1", str)
    times = {name: [(float(size), max(value, 1e-3)) for size, value in row.items()] for name, row in record["sizes"].items()}
    panel(510, "Time by size", times, [0.1, 1, 10], [1e-3, 1e-2, 1e-1, 1, 10], lambda tick: f"{tick:g} GB", seconds)
    return "".join(out) + "</svg>\n"


def write(record: dict):
    """Replaces every table between its marks."""
    record = json.loads(json.dumps(record))  # keys are texts, as in the file
    machine = record["machine"]
    parts = {
        "machine": f"{machine['cpu']}. {machine['versions']}. The binary is {machine['binary_bytes'] / 1e6:.1f} MB.\n",
        "jobs": jobs(record), "memory": memory(record), "codecs": record["codecs"],
        "scaling": by(record, "scaling", "threads"), "sizes": by(record, "sizes", "GB"),
    }
    page = PAGE.read_text()
    for name, text in parts.items():
        page, found = re.subn(rf"(<!-- {name} -->\n).*?(<!-- end -->)", lambda match: match[1] + text + match[2], page, flags=re.S)
        assert found == 1, name
    PAGE.write_text(page)
    (ROOT / "docs" / "scaling.svg").write_text(plot(record))


if __name__ == "__main__":
    write(load())
