#!/usr/bin/env python3
"""nearfield beside the lorann package: the same files, one pinned core, in turns.

    pip install numpy lorann==1.0.1
    cargo build --release
    taskset -c 0 python benches/peers/against_lorann.py BASE.npy QUERIES.npy TRUTH.npy METRIC [--train-queries T.npy]

Both hold their index in memory (lorann's build leaves it there; nearfield's file is loaded, not mapped).
Every configuration is built once. Then both engines sweep their search parameters in turns, --rounds times.
Recall@10 counts ids (nearfield's with f32 rows also near-ties); speeds are medians over the rounds; the table interpolates (log speed against recall)
on each engine's best curve over all its configurations. lorann stores f32 rows (its package from PyPI is compiled
without half precision), so nearfield is shown with f32 rows as well as with f16.
"""
import argparse, json, math, os, statistics, subprocess, tempfile, time

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"
import numpy as np

LORANN = [
    dict(n_clusters=256, global_dim=128, quantization_bits=8, rank=32),
    dict(n_clusters=512, global_dim=128, quantization_bits=8, rank=16),
    dict(n_clusters=1024, global_dim=128, quantization_bits=4, rank=32),
    dict(n_clusters=1024, global_dim=128, quantization_bits=8, rank=32),
]
NEARFIELD = ["PCA128,IVF256,RRR32", "PCA128,IVF1024,RRR32", "PCA192,IVF1024,RRR64x4"]
K = 10
SHARES = [0.01, 0.02, 0.03, 0.045, 0.07, 0.12, 0.2, 0.35, 0.6]
RERANK = [20, 30, 50, 100, 200, 400, 800]


def sweep(n_lists):
    """Pairs (lists, candidates): few candidates go with few lists, many with many."""
    for share in SHARES:
        lists = max(1, round(n_lists * share))
        for n in RERANK:
            if (n >= 200 and share < 0.03) or (n >= 400 and share < 0.07) or (n <= 30 and share > 0.07):
                continue
            yield lists, n


class Lorann:
    name = column = "lorann"

    def __init__(self, args, base, config):
        import lorann

        self.label = ", ".join(f"{k}={v}" for k, v in config.items())
        self.n_lists = config["n_clusters"]
        distance = lorann.L2 if args.metric == "l2" else lorann.IP
        self.index = lorann.LorannIndex(data=base, distance=distance, copy=False, **config)
        since = time.perf_counter()
        extra = dict(training_queries=args.train) if args.train is not None else {}
        self.index.build(verbose=False, n_threads=1, **extra)
        self.build_s = time.perf_counter() - since
        with tempfile.TemporaryDirectory() as folder:
            self.index.save(folder + "/index")
            self.bytes = os.path.getsize(folder + "/index")

    def measure(self, queries, truth, found):
        for lists, n in sweep(self.n_lists):
            options = dict(clusters_to_search=lists, points_to_rerank=n)
            ids = self.index.search(queries, K, n_threads=1, **options)
            recall = np.mean([len(np.intersect1d(a, b)) for a, b in zip(ids, truth[:, :K])]) / K
            row = found.setdefault((self.label, lists, n), dict(recall=recall, batch=[], single=[]))
            since = time.perf_counter()
            self.index.search(queries, K, n_threads=1, **options)
            row["batch"].append(len(queries) / (time.perf_counter() - since))
            since = time.perf_counter()
            for q in queries:
                self.index.search(q, K, **options)
            row["single"].append(len(queries) / (time.perf_counter() - since))


class Nearfield:
    name = "nearfield"

    def __init__(self, args, spec, folder):
        self.label, self.args = spec, args
        self.column = "nearfield " + spec.rpartition(",")[2]
        self.path = f"{folder}/{spec.replace('/', '')}.nf"
        command = [args.nearfield, "build", args.base, "-o", self.path, "--spec", spec, "--metric", args.metric]
        if args.train_queries:
            command += ["--train-queries", args.train_queries]
        built = json.loads(self.run(*command, "--threads", "1"))
        # lorann's build neither copies the rows nor saves: saving is left out here too, copying is not.
        self.build_s = built["build_s"] - built["stages"]["save"]
        self.bytes = built["index_bytes"]
        self.n_lists = json.loads(self.run(args.nearfield, "info", self.path))["n_lists"]

    @staticmethod
    def run(*command):
        return subprocess.run([*command, "--json"], check=True, capture_output=True, text=True).stdout

    def measure(self, queries, truth, found):
        pairs = {}
        for lists, n in sweep(self.n_lists):
            pairs.setdefault(lists, []).append(str(n))
        for batch in ("1", "all"):
            for lists, n in pairs.items():
                rows = self.run(
                    self.args.nearfield, "eval", self.path, self.args.queries, "--truth", self.args.truth,
                    "-k", str(K), "--n-probe", str(lists), "--n-rerank", ",".join(n), "--batch", batch,
                    "--threads", "1", "--load",
                )
                for row in map(json.loads, rows.splitlines()):
                    key = (self.label, row["n_probe"], row["n_rerank"])
                    entry = found.setdefault(key, dict(recall=row["recall"], batch=[], single=[]))
                    entry["single" if batch == "1" else "batch"].append(row["qps"])


def speed_at(found, column, recall):
    """Queries a second at a recall, on the best curve, and the configuration there."""
    points = sorted((r["recall"], statistics.median(r[column]), key) for key, r in found.items())
    curve, best = [], 0.0
    for point in reversed(points):
        if point[1] > best:
            curve.append(point)
            best = point[1]
    curve.reverse()
    for i, (at, speed, key) in enumerate(curve):
        if at >= recall:
            if i == 0:
                return speed, key
            before = curve[i - 1]
            weight = (recall - before[0]) / (at - before[0])
            return math.exp(math.log(before[1]) * (1 - weight) + math.log(speed) * weight), key
    return None, None


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("base", "queries", "truth"):
        parser.add_argument(name)
    parser.add_argument("metric", choices=("ip", "l2"))
    parser.add_argument("--train-queries")
    parser.add_argument("--nearfield", default="target/release/nearfield")
    parser.add_argument("--specs", nargs="*", default=NEARFIELD)
    parser.add_argument("--refine", nargs="*", default=["f32", "f16"])
    parser.add_argument("--lorann", type=json.loads, default=LORANN)
    parser.add_argument("--rounds", type=int, default=2)
    args = parser.parse_args()
    args.train = np.load(args.train_queries).astype(np.float32) if args.train_queries else None
    base = np.ascontiguousarray(np.load(args.base), dtype=np.float32)
    queries = np.ascontiguousarray(np.load(args.queries), dtype=np.float32)
    truth = np.load(args.truth)
    with tempfile.TemporaryDirectory() as folder:
        engines = [Lorann(args, base, config) for config in args.lorann]
        engines += [Nearfield(args, f"{s},Refine({r})", folder) for s in args.specs for r in args.refine]
        for engine in engines:
            print(f"{engine.name:10} {engine.label:60} build {engine.build_s:6.1f} s  {engine.bytes / 1e6:7.1f} MB", flush=True)
        found = {engine.column: {} for engine in engines}
        for _ in range(args.rounds):
            for engine in engines:
                engine.measure(queries, truth, found[engine.column])
    print("\nqueries a second; in brackets the ratio to lorann\n")
    print(f"| recall@{K} | queries | " + " | ".join(found) + " | configurations |")
    print("|---" * (3 + len(found)) + "|")
    for recall in (0.90, 0.95, 0.99):
        for way, text in (("single", "one at a time"), ("batch", "one batch")):
            cells, where, first = [], [], None
            for rows in found.values():
                speed, key = speed_at(rows, way, recall)
                first = first or speed
                cells.append("not reached" if speed is None else f"{speed:,.0f} ({speed / first:.2f})")
                where.append("—" if key is None else f"{key[0]}: {key[1]} lists, {key[2]} reranked")
            print(f"| {recall:.2f} | {text} | " + " | ".join(cells) + " | " + "; ".join(where) + " |")


if __name__ == "__main__":
    main()
