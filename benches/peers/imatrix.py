"""A seeded importance matrix for the two-dimensional weights of a GGUF, in llama.cpp's GGUF form: imatrix.py MODEL OUT."""
import sys

import numpy as np
from gguf import GGUFReader, GGUFWriter

random = np.random.default_rng(2)
writer = GGUFWriter(sys.argv[2], "")
writer.add_type("imatrix")
writer.add_array("imatrix.datasets", ["seeded"])
writer.add_uint32("imatrix.chunk_count", 10)
writer.add_uint32("imatrix.chunk_size", 512)
for tensor in GGUFReader(sys.argv[1]).tensors:
    if len(tensor.shape) < 2 or tensor.name == "token_embd.weight":
        continue
    columns = int(tensor.shape[0])
    sums = np.exp(random.standard_normal((1, columns))).astype(np.float32) * 10
    writer.add_tensor(tensor.name + ".in_sum2", sums)
    writer.add_tensor(tensor.name + ".counts", np.array([[10.0]], dtype=np.float32))
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
