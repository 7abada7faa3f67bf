#!/usr/bin/env python3
"""Runs module.py on a file of ann-benchmarks' format, outside of that project: fit, single queries, a batch, recall.

    cargo build --release --manifest-path benches/ann_benchmarks/native/Cargo.toml
    NEARFIELD_LIBRARY=benches/ann_benchmarks/native/target/release/libnearfield_native.so \\
        python benches/ann_benchmarks/try.py glove-100-angular.hdf5 "IVF1024(soar),APQ50x4,Refine(f16)" 16 50
"""
import importlib.util, os, sys, time, types

import h5py
import numpy as np


def module():
    """module.py, with the base class it finds in ann-benchmarks."""
    base = types.ModuleType("algorithms.base.module")
    base.BaseANN = object
    for name in ("algorithms", "algorithms.base", "algorithms.nearfield"):
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__path__ = []
    sys.modules["algorithms.base.module"] = base
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "module.py")
    spec = importlib.util.spec_from_file_location("algorithms.nearfield.module", path)
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def main():
    path, spec, n_probe, n_rerank = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    with h5py.File(path) as file:
        train, test, truth = file["train"][:], file["test"][:], file["neighbors"][:, :10]
        algorithm = module().Nearfield(file.attrs["distance"], spec)
    began = time.perf_counter()
    algorithm.fit(train)
    built = time.perf_counter() - began
    algorithm.set_query_arguments(n_probe, n_rerank)
    share = lambda found: np.mean([len(set(a) & set(b)) / truth.shape[1] for a, b in zip(found, truth)])
    began = time.perf_counter()
    found = [algorithm.query(q, 10) for q in test]
    single = len(test) / (time.perf_counter() - began)
    began = time.perf_counter()
    algorithm.batch_query(test, 10)
    batch = len(test) / (time.perf_counter() - began)
    assert all((a == b).all() for a, b in zip(found, algorithm.get_batch_results()))
    print(f"{algorithm}: built in {built:.1f} s, recall {share(found):.4f}, {single:,.0f} queries a second, {batch:,.0f} in one batch, {algorithm.get_additional()}")
    algorithm.done()


if __name__ == "__main__":
    main()
