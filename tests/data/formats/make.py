#!/usr/bin/env python3
"""Writes the files that tests/formats.rs reads, by the implementations people use.

    pip install numpy==2.* h5py pyarrow safetensors && python tests/data/formats/make.py
"""
import os

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import save_file

os.chdir(os.path.dirname(os.path.abspath(__file__)))
N, D = 40, 6
# Row i, column j holds (i·7 + j·3) mod 61 − 30, in halves: every type below holds it or its double.
values = ((np.arange(N)[:, None] * 7 + np.arange(D)[None, :] * 3) % 61 - 30) / 2
ids = np.arange(N) * 11 + 5


def lists(kind, width=None):
    flat = pa.array(values.astype(kind).ravel())
    if width:
        return pa.FixedSizeListArray.from_arrays(flat, width)
    return pa.array([list(row) for row in values.astype(kind)], type=pa.list_(flat.type))


table = pa.table({
    "id": pa.array(ids),
    "text": [f"row {i}" for i in range(N)],
    "f32": lists("float32", D),
    "f16": lists("float16", D),
    "f64": lists("float64"),
    "large": pa.array([list(row) for row in values], type=pa.large_list(pa.float32())),
})
for compression in ("snappy", "zstd", "gzip", "lz4", "brotli", "none"):
    pq.write_table(table, f"{compression}.parquet", compression=compression, row_group_size=16)
pq.write_table(table.select(["id", "f32"]), "plain.parquet")
ragged = pa.table({"v": pa.array([[1.0, 2.0], [3.0]], type=pa.list_(pa.float32()))})
pq.write_table(ragged, "ragged.parquet")
pq.write_table(pa.table({"v": pa.array([[1.0, 2.0], None], type=pa.list_(pa.float32()))}), "null.parquet")
with pa.ipc.new_file("file.arrow", table.schema) as out:
    for batch in table.to_batches(max_chunksize=15):
        out.write_batch(batch)
with pa.ipc.new_stream("stream.arrow", table.schema) as out:
    out.write_table(table)
with pa.ipc.new_file("lz4.feather", table.schema, options=pa.ipc.IpcWriteOptions(compression="lz4")) as out:
    out.write_table(table)

# As ann-benchmarks writes them.
train, test = values[:30].astype("float32"), values[30:].astype("float32")
distances = ((test[:, None] - train[None]) ** 2).sum(-1)
order = np.argsort(distances, axis=1, kind="stable")[:, :10]
for name, distance, options in (
    ("l2.hdf5", "euclidean", {}),
    ("chunked.hdf5", "angular", dict(chunks=(8, D), compression="gzip", shuffle=True)),
):
    with h5py.File(name, "w") as file:
        file.attrs["type"] = "dense"
        file.attrs["distance"] = distance
        file.attrs["dimension"] = D
        file.create_dataset("train", data=train, **options)
        file.create_dataset("test", data=test.astype("float64"))
        file.create_dataset("neighbors", data=order.astype("int32"))
        file.create_dataset("distances", data=np.sqrt(np.take_along_axis(distances, order, 1)).astype("float32"))
save_file({"a": values.astype("float32"), "b": (values * 2).astype("int8"), "half": values.astype("float16")}, "three.safetensors")
save_file({"only": values.astype("float64")}, "one.safetensors")
np.save("f64.npy", values)
