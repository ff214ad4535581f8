"""Lists names, types and shapes of a sharded folder with the safetensors package, as a typical script does."""
import json, pathlib, sys

from safetensors import safe_open

folder = pathlib.Path(sys.argv[1])
index = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
count = 0
for shard in sorted(set(index.values())):
    with safe_open(folder / shard, "np") as file:
        for name in file.keys():
            view = file.get_slice(name)
            view.get_dtype(), view.get_shape()
            count += 1
print(count)
