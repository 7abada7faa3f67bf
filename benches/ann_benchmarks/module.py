"""nearfield in ann-benchmarks. Copy this folder to ann_benchmarks/algorithms/nearfield; its Dockerfile builds the library."""
import ctypes
import os

import numpy as np

from ..base.module import BaseANN

LIBRARY = os.environ.get("NEARFIELD_LIBRARY", "/home/app/libnearfield_native.so")
METRICS = {"angular": "cosine", "euclidean": "l2", "ip": "ip", "normalized": "ip"}


def load(path=LIBRARY):
    library = ctypes.CDLL(path)
    pointer, size = ctypes.c_void_p, ctypes.c_size_t
    library.nearfield_build.restype = pointer
    library.nearfield_build.argtypes = [pointer, size, size, ctypes.c_char_p, ctypes.c_char_p]
    library.nearfield_search.restype = ctypes.c_int
    library.nearfield_search.argtypes = [pointer, pointer, size, size, size, size, size, pointer]
    library.nearfield_bytes.restype = size
    library.nearfield_bytes.argtypes = [pointer]
    library.nearfield_error.restype = ctypes.c_char_p
    library.nearfield_free.argtypes = [pointer]
    return library


class Nearfield(BaseANN):
    def __init__(self, metric, spec):
        if metric not in METRICS:
            raise ValueError(f"metric: expected one of {', '.join(METRICS)}, got {metric}")
        self.metric, self.spec = METRICS[metric], spec
        self.library, self.handle = load(), None
        self.n_probe, self.n_rerank = 8, 50

    def fit(self, X):
        X = np.ascontiguousarray(X, dtype=np.float32)
        n, d = X.shape
        self.handle = self.library.nearfield_build(X.ctypes.data, n, d, self.metric.encode(), self.spec.encode())
        if not self.handle:
            raise RuntimeError(self.library.nearfield_error().decode())
        # Room for single queries, whose addresses are asked for once: that takes numpy longer than a search takes.
        self.one = np.empty(d, dtype=np.float32)
        self.one_at = self.one.ctypes.data
        self.room(10)

    def room(self, n):
        self.found = np.empty(n, dtype=np.int64)
        self.found_at = self.found.ctypes.data

    def set_query_arguments(self, n_probe, n_rerank):
        self.n_probe, self.n_rerank = n_probe, n_rerank

    def query(self, q, n):
        if len(self.found) != n:
            self.room(n)
        self.one[:] = q
        effort = (n, self.n_probe, max(self.n_rerank, n), 1)
        if self.library.nearfield_search(self.handle, self.one_at, 1, *effort, self.found_at):
            raise RuntimeError(self.library.nearfield_error().decode())
        # Lists read may hold fewer points than n.
        return self.found[self.found >= 0]

    def batch_query(self, X, n):
        queries = np.ascontiguousarray(X, dtype=np.float32)
        self.res = np.empty((len(queries), n), dtype=np.int64)
        effort = (n, self.n_probe, max(self.n_rerank, n), 0)
        if self.library.nearfield_search(self.handle, queries.ctypes.data, len(queries), *effort, self.res.ctypes.data):
            raise RuntimeError(self.library.nearfield_error().decode())

    def get_batch_results(self):
        return [ids[ids >= 0] for ids in self.res]

    def get_additional(self):
        return {"index_bytes": self.library.nearfield_bytes(self.handle)}

    def done(self):
        if self.handle:
            self.library.nearfield_free(self.handle)
            self.handle = None

    def __str__(self):
        return f"Nearfield({self.spec}, n_probe={self.n_probe}, n_rerank={self.n_rerank})"
