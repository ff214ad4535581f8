"""Shows which layers lose most when a model is quantised: converts it to Q4_K_M and draws the relative error of each layer as text.

    python quantisation_error.py MODEL [TYPE]
"""

import collections
import pathlib
import re
import sys
import tempfile

import weigh

path, file_type = sys.argv[1], (sys.argv + ["Q4_K_M"])[2]
model = weigh.open(path)
info = model.info()
print(f"{info['name']}: {model.count()['label']} parameters, {info['architecture']}")

with tempfile.TemporaryDirectory() as folder:
    out = pathlib.Path(folder) / "quantised.gguf"
    report = model.convert(out, type=file_type, allow_requantize=True)
    print(f"{report['bytes_in']:,} -> {report['bytes_out']:,} bytes")
    diff = model.diff(out)

layers = collections.defaultdict(list)
for tensor in diff["tensors"]:
    layer = re.search(r"\.(\d+)\.", tensor["name"])
    if tensor["relative_rmse"]:
        layers[int(layer[1]) if layer else -1].append(tensor["relative_rmse"])
worst = max(max(errors) for errors in layers.values())
for layer, errors in sorted(layers.items()):
    mean = sum(errors) / len(errors)
    print(f"{'outside' if layer < 0 else layer:>7} {mean:7.2%} {'#' * round(40 * mean / worst)}")
