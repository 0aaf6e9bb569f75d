"""Writes blocks.bin: GGUF blocks of every supported type with the floats that the `gguf` package
(PyPI) decodes from them. Run: python make.py (needs numpy and gguf).

blocks.bin is a sequence of records: name (16 bytes, zero-padded), u32 rows, u32 k, u32 bytes per
row, the blocks, then rows * k float32. Little-endian.
"""
import os
import struct

import numpy as np
from gguf import GGMLQuantizationType as T
from gguf import quants

# name, type, weights a block, bytes a block, offsets of its f16 scales
TYPES = [
    ("f32", T.F32, 1, 4, []),
    ("f16", T.F16, 1, 2, []),
    ("bf16", T.BF16, 1, 2, []),
    ("q8_0", T.Q8_0, 32, 34, [0]),
    ("q4_0", T.Q4_0, 32, 18, [0]),
    ("q4_1", T.Q4_1, 32, 20, [0, 2]),
    ("q5_0", T.Q5_0, 32, 22, [0]),
    ("q5_1", T.Q5_1, 32, 24, [0, 2]),
    ("q4_k", T.Q4_K, 256, 144, [0, 2]),
    ("q5_k", T.Q5_K, 256, 176, [0, 2]),
    ("q6_k", T.Q6_K, 256, 210, [208]),
]


def main():
    rng = np.random.default_rng(7)
    rows, k = 6, 512
    with open(os.path.join(os.path.dirname(__file__), "blocks.bin"), "wb") as out:
        for name, kind, values, block_bytes, scales in TYPES:
            if values == 1:
                source = rng.normal(size=(rows, 64)).astype(np.float32)
                source[0, :8] = [0.0, -0.0, 1e-6, -1e-7, 65504.0, 1.0, -1.0, 3.0e-5]
                data = quants.quantize(source, kind)
                data = data.view(np.uint8).reshape(rows, -1)
                width = 64
            else:
                blocks = k // values
                data = rng.integers(0, 256, size=(rows, blocks, block_bytes), dtype=np.uint8)
                data[1], data[2] = 0, 255  # every code at its lowest, then its highest
                for offset in scales:
                    d = rng.normal(scale=0.05, size=(rows, blocks)).astype(np.float16)
                    d[3, 0], d[4, 0] = 0.0, 6e-8  # zero and subnormal scales
                    data[:, :, offset:offset + 2] = d.view(np.uint8).reshape(rows, blocks, 2)
                data = data.reshape(rows, -1)
                width = k
            floats = quants.dequantize(data, kind).astype(np.float32).reshape(rows, width)
            out.write(name.encode().ljust(16, b"\0"))
            out.write(struct.pack("<III", rows, width, data.shape[1]))
            out.write(data.tobytes())
            out.write(floats.tobytes())


if __name__ == "__main__":
    main()
