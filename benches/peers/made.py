#!/usr/bin/env python3
"""Makes a large set that behaves like text embeddings: base.npy, query.npy and, by `nearfield truth`, gt.npy.

    python benches/peers/made.py FOLDER --n 1000000 --dim 384

Unit rows, half precision, for ip. A row is a topic plus 0.7 subtopics plus noise of its own. All three have a spectrum that decays like
i^(-1/2), in one randomly turned basis; topics and subtopics are drawn with Zipf's weights, so that some are crowded and
most are not. Queries are drawn alike and are not in the base. One seed makes the same set, up to the rounding of the machine.
"""
import argparse, os, subprocess

import numpy as np


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--n", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--noise", type=float, default=0.4, help="a row's own part beside its topic's")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--nearfield", default="target/release/nearfield")
    args = parser.parse_args()
    rng = np.random.default_rng(args.seed)
    d = args.dim
    spectrum = (1 + np.arange(d, dtype=np.float32)) ** -0.5
    turn = np.linalg.qr(rng.standard_normal((d, d)))[0].astype(np.float32)

    def draw(n):
        return rng.standard_normal((n, d), dtype=np.float32) * spectrum

    topics, subtopics = draw(1000), draw(50_000)
    weights = [1 / (10 + np.arange(len(of))) for of in (topics, subtopics)]

    def rows(n):
        chosen = [rng.choice(len(w), n, p=w / w.sum()) for w in weights]
        x = topics[chosen[0]] + 0.7 * subtopics[chosen[1]] + args.noise * draw(n)
        x = x @ turn
        return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float16)

    os.makedirs(args.folder, exist_ok=True)
    base = np.lib.format.open_memmap(f"{args.folder}/base.npy", "w+", np.float16, (args.n, d))
    for start in range(0, args.n, 50_000):
        base[start : start + 50_000] = rows(min(50_000, args.n - start))
    base.flush()
    np.save(f"{args.folder}/query.npy", rows(args.queries))
    paths = [f"{args.folder}/{name}.npy" for name in ("base", "query", "gt")]
    subprocess.run([args.nearfield, "truth", paths[0], paths[1], "-k", "100", "--metric", "ip", "-o", paths[2]], check=True)


if __name__ == "__main__":
    main()
