#!/usr/bin/env python3
"""Codes alone, nearfield's beside ScaNN's: as many bits for each, all lists read, nothing scored exactly.

    taskset -c 1 peers/bin/python benches/peers/codes.py BASE.npy QUERIES.npy TRUTH.npy METRIC

METRIC is ip, cosine (rows are normalised for both) or l2. Prints the share of the true ten among the best 10, 20 and 50 by
codes of 4 bits for every two dimensions, four where there are more than 400.
"""
import argparse, math, subprocess, tempfile

import numpy as np

K, DEPTHS = 10, (10, 20, 50)


def scann(base, queries, metric, n_lists, block, threshold):
    from scann.scann_ops.py import scann_ops_pybind

    distance = "squared_l2" if metric == "l2" else "dot_product"
    builder = scann_ops_pybind.builder(base, K, distance).set_n_training_threads(1)
    builder = builder.tree(n_lists, n_lists, training_sample_size=len(base))
    index = builder.score_ah(block, anisotropic_quantization_threshold=threshold, training_sample_size=len(base)).build()
    return index.search_batched(queries, final_num_neighbors=max(DEPTHS), leaves_to_search=n_lists)[0]


def nearfield(args, folder, n_lists, scorer):
    index, ids = f"{folder}/index.nf", f"{folder}/ids.npy"
    build = ("build", "--no-tune", args.base, "-o", index, "--spec", f"IVF{n_lists},{scorer}", "--metric", args.metric)
    search = ("search", index, args.queries, "-k", max(DEPTHS), "--n-probe", n_lists, "--device", "cpu", "-o", ids)
    for command in (build, search):
        subprocess.run([args.nearfield, *map(str, command)], check=True, capture_output=True)
    return np.load(ids)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("base", "queries", "truth"):
        parser.add_argument(name)
    parser.add_argument("metric", choices=("ip", "cosine", "l2"))
    parser.add_argument("--nearfield", default="target/release/nearfield")
    args = parser.parse_args()
    base, queries = (np.ascontiguousarray(np.load(path), dtype=np.float32) for path in (args.base, args.queries))
    if args.metric == "cosine":
        base /= np.linalg.norm(base, axis=1, keepdims=True)
        queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    truth = np.load(args.truth)[:, :K]
    n, d = base.shape
    block = 2 if d <= 400 else 4
    n_lists = 2 ** round(math.log2(3 * math.sqrt(n)))
    print("| codes | " + " | ".join(map(str, DEPTHS)) + " |")
    print("|---" * (1 + len(DEPTHS)) + "|")
    with tempfile.TemporaryDirectory() as folder:
        rows = [(f"scann, {name}", scann(base, queries, args.metric, n_lists, block, t)) for name, t in (("T = 0.2", 0.2), ("no T", float("nan")))]
        rows += [(f"nearfield, {name}", nearfield(args, folder, n_lists, f"{name}{math.ceil(d / block)}x4")) for name in ("APQ", "PQ")]
    for label, ids in rows:
        shares = [np.mean([len(np.intersect1d(a[:depth], b)) for a, b in zip(ids, truth)]) / K for depth in DEPTHS]
        print(f"| {label} | " + " | ".join(f"{share:.4f}" for share in shares) + " |")


if __name__ == "__main__":
    main()
