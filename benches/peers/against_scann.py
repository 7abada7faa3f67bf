#!/usr/bin/env python3
"""nearfield beside ScaNN and FAISS's IVF-PQ fast scan: the same files, one pinned core, in turns.

    pip install numpy scann==1.4.2 faiss-cpu==1.15.1
    cargo build --release
    taskset -c 0 python benches/peers/against_scann.py BASE.npy QUERIES.npy TRUTH.npy METRIC

METRIC is ip, cosine (rows are normalised for all) or l2. Every configuration is built once, on one thread; then all engines
sweep their search parameters in turns, --rounds times. Recall@10 counts ids; speeds are medians over the rounds; the
tables interpolate (log speed against recall) on each engine's best curve over all its configurations. A last table
compares codes of equal bytes: recall@10 of the same number of candidates out of all lists, without reranking.
"""
import argparse, json, math, os, subprocess, tempfile, time

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"
import numpy as np

from against_lorann import K, Nearfield, speed_at, sweep


def recall_of(ids, truth):
    return float(np.mean([len(np.intersect1d(a, b)) for a, b in zip(ids, truth[:, :K])]) / K)


class Peer:
    def measure(self, queries, truth, found):
        for lists, n in sweep(self.n_lists):
            self.set(lists, n)
            ids = self.batch(queries)
            row = found.setdefault((self.label, lists, n), dict(recall=recall_of(ids, truth), batch=[], single=[]))
            since = time.perf_counter()
            self.batch(queries)
            row["batch"].append(len(queries) / (time.perf_counter() - since))
            since = time.perf_counter()
            for q in queries:
                self.single(q)
            row["single"].append(len(queries) / (time.perf_counter() - since))


class Scann(Peer):
    name = column = "scann"

    def __init__(self, args, base, config):
        from scann.scann_ops.py import scann_ops_pybind

        self.n_lists = config["leaves"]
        self.label = ", ".join(f"{k}={v}" for k, v in config.items())
        since = time.perf_counter()
        distance = "squared_l2" if args.metric == "l2" else "dot_product"
        builder = scann_ops_pybind.builder(base, K, distance).set_n_training_threads(1)
        extra = dict(soar_lambda=config["soar"]) if "soar" in config else {}
        builder = builder.tree(self.n_lists, 10, training_sample_size=len(base), **extra)
        threshold = config.get("T", float("nan"))
        builder = builder.score_ah(config["block"], anisotropic_quantization_threshold=threshold, training_sample_size=len(base))
        self.index = builder.reorder(100).build()
        self.index.set_num_threads(1)
        self.build_s = time.perf_counter() - since
        with tempfile.TemporaryDirectory() as folder:
            self.index.serialize(folder)
            self.bytes = sum(os.path.getsize(os.path.join(folder, f)) for f in os.listdir(folder))

    def set(self, lists, n):
        self.options = dict(final_num_neighbors=K, pre_reorder_num_neighbors=n, leaves_to_search=lists)

    def batch(self, queries):
        return self.index.search_batched(queries, **self.options)[0]

    def single(self, q):
        return self.index.search(q, **self.options)


class Faiss(Peer):
    name = column = "faiss"

    def __init__(self, args, base, factory):
        import faiss

        faiss.omp_set_num_threads(1)
        self.label, self.faiss = factory, faiss
        since = time.perf_counter()
        metric = faiss.METRIC_L2 if args.metric == "l2" else faiss.METRIC_INNER_PRODUCT
        self.index = faiss.index_factory(base.shape[1], factory, metric)
        self.index.train(base)
        self.index.add(base)
        self.build_s = time.perf_counter() - since
        self.n_lists = faiss.extract_index_ivf(self.index.base_index).nlist
        self.bytes = faiss.serialize_index(self.index).nbytes

    def set(self, lists, n):
        ivf = self.faiss.IVFSearchParameters(nprobe=lists)
        self.options = self.faiss.IndexRefineSearchParameters(k_factor=n / K, base_index_params=ivf)

    def batch(self, queries):
        return self.index.search(queries, K, params=self.options)[1]

    def single(self, q):
        return self.index.search(q[None], K, params=self.options)


def configurations(n, d, metric):
    """What the peers' own documents advise: about 2·√n leaves, two dimensions a block; four where there are many."""
    leaves, block = int(2 * math.sqrt(n)), 2 if d <= 400 else 4
    scann = [dict(leaves=leaves, block=block, T=0.2)]
    scann.append(dict(leaves=leaves, block=block) if metric == "l2" else dict(leaves=leaves, block=block, T=0.2, soar=1.5))
    n_lists = 2 ** round(math.log2(3 * math.sqrt(n)))
    faiss = [f"IVF{n_lists},PQ{d // 2}x4fs,RFlat", f"IVF{n_lists // 2},PQ{d // 4}x4fs,RFlat"]
    return scann, faiss


def specifications(n_lists, d, metric):
    """What did best here: a reduction where there are many dimensions, copies for products."""
    if d <= 128:
        return [f"IVF{n_lists},APQ{d // 2}x4", f"IVF{n_lists}(soar=1),APQ{d // 2}x4"]
    if metric == "l2":
        return [f"PCA128,IVF{n_lists // 2},PQ64x4", f"PCA128,IVF{n_lists // 4},RRR32"]
    s = min(192, d)
    return [f"PCA{s},IVF{n_lists}(soar=1),APQ{s // 3}x4", f"PCA{s},IVF{n_lists},APQ{s // 2}x4"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("base", "queries", "truth"):
        parser.add_argument(name)
    parser.add_argument("metric", choices=("ip", "cosine", "l2"))
    parser.add_argument("--nearfield", default="target/release/nearfield")
    parser.add_argument("--specs", nargs="*", help="specifications without Refine; two that did well if not given")
    parser.add_argument("--refine", nargs="*", default=["f16"])
    parser.add_argument("--rounds", type=int, default=1)
    args = parser.parse_args()
    args.train_queries = None
    base = np.ascontiguousarray(np.load(args.base), dtype=np.float32)
    queries = np.ascontiguousarray(np.load(args.queries), dtype=np.float32)
    truth = np.load(args.truth)
    if args.metric == "cosine":
        base /= np.linalg.norm(base, axis=1, keepdims=True)
        queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    n, d = base.shape
    scann, faiss = configurations(n, d, args.metric)
    n_lists = 2 ** round(math.log2(3 * math.sqrt(n)))
    specs = args.specs or specifications(n_lists, d, args.metric)
    with tempfile.TemporaryDirectory() as folder:
        engines = [Scann(args, base, config) for config in scann]
        engines += [Faiss(args, base, factory) for factory in faiss]
        engines += [Nearfield(args, f"{s},Refine({r})", folder) for s in specs for r in args.refine]
        for engine in engines:
            print(f"{engine.name:10} {engine.label:50} build {engine.build_s:6.1f} s  {engine.bytes / 1e6:7.1f} MB", flush=True)
        found = {engine.column: {} for engine in engines}
        for _ in range(args.rounds):
            for engine in engines:
                engine.measure(queries, truth, found[engine.column])
        accuracy(args, base, queries, truth, n_lists, d // 2 if d <= 400 else d // 4, folder)
    print("\nqueries a second; in brackets the ratio to the better of scann and faiss\n")
    print(f"| recall@{K} | queries | " + " | ".join(found) + " | configurations |")
    print("|---" * (3 + len(found)) + "|")
    for recall in (0.90, 0.95, 0.99):
        for way, text in (("single", "one at a time"), ("batch", "one batch")):
            at = {name: speed_at(rows, way, recall) for name, rows in found.items()}
            best = max(at[name][0] or 0.0 for name in ("scann", "faiss")) or 1.0
            cells = ["not reached" if s is None else f"{s:,.0f} ({s / best:.2f})" for s, _ in at.values()]
            where = ["—" if key is None else f"{key[0]}: {key[1]} lists, {key[2]} reranked" for _, key in at.values()]
            print(f"| {recall:.2f} | {text} | " + " | ".join(cells) + " | " + "; ".join(where) + " |")


def accuracy(args, base, queries, truth, n_lists, m, folder):
    """Codes of m·4 bits over all lists: share of the true ten among the best 10, 20, 50 by codes alone."""
    depths = (10, 20, 50)
    block = math.ceil(base.shape[1] / m)
    from scann.scann_ops.py import scann_ops_pybind

    rows = {}
    distance = "squared_l2" if args.metric == "l2" else "dot_product"
    for label, threshold in (("scann, T = 0.2", 0.2), ("scann, no threshold", float("nan"))):
        builder = scann_ops_pybind.builder(base, K, distance).set_n_training_threads(1)
        builder = builder.tree(n_lists, n_lists, training_sample_size=len(base))
        index = builder.score_ah(block, anisotropic_quantization_threshold=threshold, training_sample_size=len(base)).build()
        ids = index.search_batched(queries, final_num_neighbors=max(depths), leaves_to_search=n_lists)[0]
        rows[label] = ids
    for label, spec in (("nearfield, APQ", f"IVF{n_lists},APQ{m}x4"), ("nearfield, PQ", f"IVF{n_lists},PQ{m}x4")):
        path = f"{folder}/accuracy.nf"
        subprocess.run([args.nearfield, "build", args.base, "-o", path, "--spec", spec, "--metric", args.metric], check=True, capture_output=True)
        out = f"{folder}/ids.npy"
        subprocess.run([args.nearfield, "search", path, args.queries, "-k", str(max(depths)), "--n-probe", str(n_lists), "--device", "cpu", "-o", out], check=True, capture_output=True)
        rows[label] = np.load(out)
    print(f"\nby codes of {m * 4} bits alone, all lists: share of the true ten among the best\n")
    print("| codes | " + " | ".join(str(d) for d in depths) + " |")
    print("|---" * (1 + len(depths)) + "|")
    for label, ids in rows.items():
        shares = [np.mean([len(np.intersect1d(a[:depth], b)) for a, b in zip(ids, truth[:, :K])]) / K for depth in depths]
        print(f"| {label} | " + " | ".join(f"{share:.4f}" for share in shares) + " |")


if __name__ == "__main__":
    main()
