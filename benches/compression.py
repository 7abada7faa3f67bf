#!/usr/bin/env python3
"""What compression costs and brings: the experiments of the CNT paper on vectors of one's own, with LIN beside CNT.

    cargo build --release --features neural
    python -m venv peers && peers/bin/pip install -r benches/peers/requirements.txt torch
    peers/bin/python benches/compression.py exact DIR:METRIC... --plot compression

A DIR holds base.npy, query.npy and gt.npy (ids of the nearest, best first); METRIC is ip (rows of unit length) or l2. The experiments:

    exact   all compressed vectors compared: is the nearest among the first 1, 5, 10? The same through HNSW (paper, table 4)
    pq      product quantisation of compressed vectors, at equal bytes: 1, 5, 50 (table 2)
    sq      a byte a dimension of compressed vectors: 1, 5, 10 (table 3)
    hnsw    a graph built on compressed vectors and searched with the full ones: time to build, recall at equal effort (table 1)

Methods: SRP, PCA, LIN and CNT by `nearfield compress`; VAE by torch, a small one. What comes out is compared as the vectors are;
under ip all are scaled to unit length, which favours none. `all` is all four on the same compressed vectors. --held-out
takes 1 000 rows of the base as queries and leaves HNSW out, to choose settings by. Markdown tables go to stdout, plots to
NAME-exact.svg and so on. Training takes all cores, the rest one.
"""
import argparse, json, subprocess, sys, tempfile, time
from pathlib import Path

import faiss
import numpy as np

METHODS = ("SRP", "PCA", "VAE", "LIN", "CNT")
EXPERIMENTS = {
    "exact": "compressed vectors, all compared",
    "pq": "product quantisation of compressed vectors",
    "sq": "a byte a dimension of compressed vectors",
    "hnsw": "graphs built on compressed vectors, searched with the full ones",
}


def run(*command):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return [json.loads(line) for line in done.stdout.splitlines()]


def recalls(ids, truth, depths):
    """Share of queries whose nearest is among the first."""
    return [100 * np.mean([t in row[:depth] for row, t in zip(ids, truth)]) for depth in depths]


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


class Set:
    """Vectors, queries and the nearest of each."""

    def __init__(self, given, args, folder):
        path, _, self.metric = given.partition(":")
        if self.metric not in ("ip", "l2"):
            sys.exit(f"{given}: expected DIR:ip or DIR:l2")
        self.args, self.folder, self.name = args, folder, Path(path).name
        base, query = (np.load(f"{path}/{name}.npy").astype(np.float32) for name in ("base", "query"))
        if args.held_out:
            rows = np.random.default_rng(0).permutation(len(base))
            query, base = base[rows[:1000]], base[np.sort(rows[1000:])]
            self.truth = self.nearest(base, query, 1)[:, 0]
        else:
            self.truth = np.load(f"{path}/gt.npy")[:, 0]
        self.base, self.query = base, query
        for part in ("base", "query"):
            np.save(f"{folder}/{self.name}-{part}.npy", getattr(self, part))
        self.compressed = {}

    def nearest(self, base, query, k):
        index = faiss.IndexFlatL2(base.shape[1]) if self.metric == "l2" else faiss.IndexFlatIP(base.shape[1])
        index.add(base)
        return index.search(query, k)[1]

    def compress(self, method, s):
        """Base and queries, and vectors a second on one thread."""
        if (method, s) not in self.compressed:
            if method == "full":
                found = [self.base, self.query, None]
            elif method == "rotated":
                turn = np.linalg.qr(np.random.default_rng(0).normal(size=(self.base.shape[1],) * 2))[0].astype(np.float32)
                found = [self.base @ turn, self.query @ turn, None]
            elif method == "VAE":
                found = [*vae(self.base, self.query, s, self.args.seed), None]
            else:
                found = self.by_nearfield(method, s)
            if self.metric == "ip":
                found[:2] = map(unit, found[:2])
            self.compressed[method, s] = [np.ascontiguousarray(part) for part in found[:2]] + found[2:]
        return self.compressed[method, s]

    def by_nearfield(self, method, s):
        stem = f"{self.folder}/{self.name}"
        model, out = f"{stem}-{method}{s}.nf", f"{stem}-{method}{s}.npy"
        call = (self.args.nearfield, "--json", "compress")
        sizes = self.args.cnt if method == "CNT" else ""
        options = ("--seed", self.args.seed, "--metric", self.metric) + (("--steps", self.args.steps) if self.args.steps else ())
        trained = run(*call, f"{stem}-base.npy", f"--{method.lower()}", f"{s}{sizes}", *options, "--save", model, "-o", out)[0]
        again = run(*call, f"{stem}-base.npy", "--with", model, "--threads", 1, "-o", out)[0]
        base = np.load(out)
        run(*call, f"{stem}-query.npy", "--with", model, "-o", out)
        print(f"{self.name} {method}{s}{sizes}: found in {trained['train_s']:.1f} s, {again['rate']:.0f} vectors/s a thread", file=sys.stderr)
        return [base, np.load(out), again["rate"]]

    def by_codes(self, base, query, scorer, k):
        """Neighbours by nearfield's codes of compressed vectors."""
        paths = [f"{self.folder}/{name}" for name in ("codes-base.npy", "codes-query.npy", "codes.nf", "codes-ids.npy")]
        np.save(paths[0], base), np.save(paths[1], query)
        run(self.args.nearfield, "--json", "build", "--no-tune", paths[0], "--spec", scorer, "--metric", self.metric, "-o", paths[2])
        run(self.args.nearfield, "--json", "search", paths[2], paths[1], "-k", k, "--device", "cpu", "-o", paths[3])
        return np.load(paths[3])


def vae(base, query, s, seed):
    """Means of a variational autoencoder: two layers to the code, two back, β = 0.001, ten epochs."""
    import torch
    from torch import nn

    torch.manual_seed(seed)
    mean, deviation = base.mean(0), (base - base.mean(0)).std()
    x, q = (torch.tensor((rows - mean) / deviation) for rows in (base, query))
    d, h = x.shape[1], 2 * s
    to, back = (nn.Sequential(nn.Linear(a, h), nn.Hardswish(), nn.Linear(h, b)) for a, b in ((d, 2 * s), (s, d)))
    adam = torch.optim.Adam([*to.parameters(), *back.parameters()], 1e-3)
    for _ in range(10):
        for rows in torch.randperm(len(x)).split(512):
            mu, spread = to(x[rows]).chunk(2, 1)
            code = mu + torch.randn_like(mu) * (0.5 * spread).exp()
            prior = 0.5 * (mu.square() + spread.exp() - 1 - spread).sum(1).mean()
            loss = (back(code) - x[rows]).square().sum(1).mean() + 0.001 * prior
            adam.zero_grad(), loss.backward(), adam.step()
    with torch.no_grad():
        return [to(rows).chunk(2, 1)[0].numpy() for rows in (x, q)]


def graph(base, metric, neighbours=32, effort=200):
    """An HNSW graph, and seconds to build it."""
    measure = faiss.METRIC_L2 if metric == "l2" else faiss.METRIC_INNER_PRODUCT
    index = faiss.IndexHNSWFlat(base.shape[1], neighbours, measure)
    index.hnsw.efConstruction = effort
    since = time.perf_counter()
    index.add(base)
    return index, time.perf_counter() - since


def exact(data, args):
    depths = (1, 5, 10)
    for factor in args.factors:
        s = data.base.shape[1] // factor
        for method in args.methods:
            base, query, rate = data.compress(method, s)
            found = dict(zip([f"1@{k}" for k in depths], recalls(data.nearest(base, query, 10), data.truth, depths)))
            if not args.held_out:
                index, _ = graph(base, data.metric)
                index.hnsw.efSearch = 128
                ids = index.search(query, 10)[1]
                found |= dict(zip([f"HNSW 1@{k}" for k in depths], recalls(ids, data.truth, depths)))
            yield f"{factor}×", method, found, {"vectors/s": f"{rate / 1000:.0f}k" if rate else "—"}


def pq(data, args):
    depths = (1, 5, 50)
    for n_bytes in args.bytes:
        for method in ("full", "rotated", "PCA", "LIN", "CNT"):
            base, query, _ = data.compress(method, data.base.shape[1] // 4)
            ids = data.by_codes(base, query, f"PQ{n_bytes}x8", max(depths))
            yield f"{n_bytes} bytes", method, dict(zip([f"1@{k}" for k in depths], recalls(ids, data.truth, depths))), {}


def sq(data, args):
    depths = (1, 5, 10)
    for method, factor in [("full", 1)] + [(method, f) for f in args.factors for method in ("PCA", "LIN", "CNT")]:
        s = data.base.shape[1] // factor
        base, query, _ = data.compress(method, s)
        ids = data.by_codes(base, query, "SQ8", max(depths))
        yield f"{s} bytes", method, dict(zip([f"1@{k}" for k in depths], recalls(ids, data.truth, depths))), {}


def hnsw(data, args):
    d = data.base.shape[1]
    for method in ("full", "PCA", "LIN", "CNT"):
        base, _, _ = data.compress(method, d // 4)
        index, seconds = graph(base, data.metric)
        flat = faiss.IndexFlat(d, faiss.METRIC_L2 if data.metric == "l2" else faiss.METRIC_INNER_PRODUCT)
        flat.add(data.base)
        index.storage, index.own_fields, index.d = flat, False, d
        found = {}
        for effort in (16, 32, 64, 128):
            index.hnsw.efSearch = effort
            found[f"ef {effort}"] = recalls(index.search(data.query, 1)[1], data.truth, [1])[0]
        yield "graph of", method, found, {"build": f"{seconds:.1f} s"}


def plot(path, results, title):
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "nearfield"
    import matplotlib.pyplot as plt

    groups = [(name, group) for name, rows in results for group in dict.fromkeys(row[0] for row in rows)]
    figure, axes = plt.subplots(1, len(groups), figsize=(3.4 * len(groups), 3.4), sharey=True, squeeze=False)
    for axis, (name, group) in zip(axes[0], groups):
        rows = [row for row in dict(results)[name] if row[0] == group]
        columns = [column for column in rows[0][2] if not column.startswith("HNSW")]
        for i, (_, method, found, _) in enumerate(rows):
            if columns[0].startswith("ef"):
                axis.plot(columns, [found[c] for c in columns], marker="o", label=method)
                continue
            at = [x + (i + 0.5) / len(rows) * 0.8 - 0.4 for x in range(len(columns))]
            axis.bar(at, [found[c] for c in columns], 0.8 / len(rows), label=method)
            axis.set_xticks(range(len(columns)), columns)
        axis.set_title(f"{name}, {group}", fontsize=9)
        axis.grid(axis="y", alpha=0.3)
    axes[0][0].set_ylabel("nearest found, %")
    axes[0][-1].legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.suptitle(title, fontsize=10)
    figure.tight_layout()
    figure.savefig(path, format="svg", metadata={"Date": None})


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", choices=(*EXPERIMENTS, "all"))
    parser.add_argument("sets", nargs="+", metavar="DIR:METRIC")
    parser.add_argument("--nearfield", default="target/release/nearfield", help="the program, built with --features neural")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS, help="of `exact`")
    parser.add_argument("--factors", nargs="+", type=int, default=(4, 8), help="of `exact` and `sq`")
    parser.add_argument("--bytes", nargs="+", type=int, default=(16, 32), help="of `pq`")
    parser.add_argument("--cnt", default="", help='sizes of the network, "(tokens=12,heads=4,stages=2)" for instance')
    parser.add_argument("--steps", type=int, help="steps of training")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--held-out", action="store_true", help="rows of the base as queries")
    parser.add_argument("--plot", help="begin of the names of the SVGs to write: NAME-exact.svg")
    args = parser.parse_args()
    faiss.omp_set_num_threads(1)
    experiments = tuple(EXPERIMENTS) if args.experiment == "all" else (args.experiment,)
    results = {experiment: [] for experiment in experiments}
    with tempfile.TemporaryDirectory() as folder:
        for given in args.sets:
            data = Set(given, args, folder)
            for experiment in experiments:
                rows = []
                for row in globals()[experiment](data, args):
                    if not rows:
                        names = ["", "", *row[2], *row[3]]
                        print(f"\n{experiment}, {data.name}\n\n| {' | '.join(names)} |\n|{'---|' * len(names)}")
                    rows.append(row)
                    values = [f"{v:.1f}" for v in row[2].values()] + list(row[3].values())
                    print(f"| {row[0]} | {row[1]} | {' | '.join(values)} |", flush=True)
                results[experiment].append((data.name, rows))
    if args.plot:
        for experiment in experiments:
            plot(f"{args.plot}-{experiment}.svg", results[experiment], EXPERIMENTS[experiment])


if __name__ == "__main__":
    main()
