"""One class an engine: build it, name its search settings, search one query or many.

Every engine builds and searches on one thread. `settings(k)` goes from little effort to much: a list of dictionaries.
"""
import json, math, os, subprocess, tempfile, time

import numpy as np

SHARES = [0.001, 0.002, 0.004, 0.006, 0.009, 0.014, 0.02, 0.03, 0.045, 0.07, 0.1, 0.15, 0.25, 0.4, 0.6]
WIDTHS = [10, 16, 24, 32, 48, 64, 96, 128, 192, 256, 400, 600]


def grid(n_lists, k, most=800):
    """Lists to read and candidates to score exactly: few go with few, many with many."""
    shares = {max(1, round(n_lists * share)): share for share in SHARES}
    for lists, share in shares.items():
        for n in (2 * k, 3 * k, 5 * k, 10 * k, 20 * k, 40 * k, 80 * k):
            wide = n / k
            if n > most * max(1, k // 20) or (wide >= 20 and share < 0.02) or (wide >= 40 and share < 0.07) or (wide <= 3 and share > 0.1):
                continue
            yield lists, n


class Engine:
    """What is common: a label, seconds of building, bytes of the saved index."""

    def __init__(self, label):
        self.label = label

    def timed(self, build):
        since = time.perf_counter()
        built = build()
        self.build_s = time.perf_counter() - since
        return built

    def sized(self, save):
        """Bytes of what `save(folder)` writes."""
        with tempfile.TemporaryDirectory() as folder:
            save(folder)
            self.bytes = sum(os.path.getsize(os.path.join(at, f)) for at, _, files in os.walk(folder) for f in files)


class Lorann(Engine):
    name = "lorann"

    def __init__(self, data, config):
        super().__init__(", ".join(f"{key}={value}" for key, value in config.items()))
        import lorann

        distance = lorann.L2 if data.metric == "l2" else lorann.IP
        self.n_lists = config["n_clusters"]
        self.index = lorann.LorannIndex(data=data.base, distance=distance, copy=False, **config)
        extra = {} if data.train is None else dict(training_queries=data.train)
        self.timed(lambda: self.index.build(verbose=False, n_threads=1, **extra))
        self.sized(lambda folder: self.index.save(folder + "/index"))

    @staticmethod
    def configurations(n, d, metric):
        c = 2 ** round(math.log2(math.sqrt(n)))
        # A multiple of 32, or lorann refuses it.
        s = min(128, d // 32 * 32)
        return [
            dict(n_clusters=c, global_dim=s, quantization_bits=8, rank=32),
            dict(n_clusters=2 * c, global_dim=s, quantization_bits=8, rank=16),
            dict(n_clusters=4 * c, global_dim=s, quantization_bits=4, rank=32),
            dict(n_clusters=4 * c, global_dim=s, quantization_bits=8, rank=32),
        ]

    def settings(self, k):
        return [dict(clusters_to_search=lists, points_to_rerank=n) for lists, n in grid(self.n_lists, k)]

    def apply(self, k, setting):
        self.k, self.options = k, setting

    def one(self, q):
        return self.index.search(q, self.k, **self.options)

    def many(self, queries):
        return self.index.search(queries, self.k, n_threads=1, **self.options)


class Scann(Engine):
    name = "scann"

    def __init__(self, data, config):
        super().__init__(", ".join(f"{key}={value}" for key, value in config.items()))
        from scann.scann_ops.py import scann_ops_pybind

        self.n_lists = config["leaves"]
        sample = min(len(data.base), 250_000)
        extra = dict(soar_lambda=config["soar"]) if "soar" in config else {}

        def build():
            distance = "squared_l2" if data.metric == "l2" else "dot_product"
            builder = scann_ops_pybind.builder(data.base, 10, distance).set_n_training_threads(1)
            builder = builder.tree(self.n_lists, 10, training_sample_size=sample, **extra)
            threshold = config.get("T", float("nan"))
            builder = builder.score_ah(config["block"], anisotropic_quantization_threshold=threshold, training_sample_size=sample)
            return builder.reorder(100).build()

        self.index = self.timed(build)
        self.index.set_num_threads(1)
        self.sized(self.index.serialize)

    @staticmethod
    def configurations(n, d, metric):
        leaves, block = int(2 * math.sqrt(n)), 2 if d <= 400 else 4
        last = dict(leaves=leaves, block=block) if metric == "l2" else dict(leaves=leaves, block=block, T=0.2, soar=1.5)
        return [dict(leaves=leaves, block=block, T=0.2), last]

    def settings(self, k):
        return [dict(leaves_to_search=lists, pre_reorder_num_neighbors=n) for lists, n in grid(self.n_lists, k)]

    def apply(self, k, setting):
        self.options = dict(final_num_neighbors=k, **setting)

    def one(self, q):
        return self.index.search(q, **self.options)[0]

    def many(self, queries):
        return self.index.search_batched(queries, **self.options)[0]


class Faiss(Engine):
    name = "faiss"

    def __init__(self, data, factory):
        super().__init__(factory)
        import faiss

        faiss.omp_set_num_threads(1)
        self.faiss = faiss

        def build():
            metric = faiss.METRIC_L2 if data.metric == "l2" else faiss.METRIC_INNER_PRODUCT
            index = faiss.index_factory(data.base.shape[1], factory, metric)
            index.train(data.base)
            index.add(data.base)
            return index

        self.index = self.timed(build)
        self.n_lists = faiss.extract_index_ivf(self.index.base_index).nlist
        self.sized(lambda folder: faiss.write_index(self.index, folder + "/index"))

    @staticmethod
    def configurations(n, d, metric):
        n_lists = 2 ** round(math.log2(3 * math.sqrt(n)))
        return [f"IVF{n_lists},PQ{d // 2}x4fs,RFlat", f"IVF{n_lists // 2},PQ{d // 4}x4fs,RFlat"]

    def settings(self, k):
        return [dict(nprobe=lists, k_factor=n / k) for lists, n in grid(self.n_lists, k)]

    def apply(self, k, setting):
        ivf = self.faiss.IVFSearchParameters(nprobe=setting["nprobe"])
        self.k = k
        self.options = self.faiss.IndexRefineSearchParameters(k_factor=setting["k_factor"], base_index_params=ivf)

    def one(self, q):
        return self.index.search(q[None], self.k, params=self.options)[1][0]

    def many(self, queries):
        return self.index.search(queries, self.k, params=self.options)[1]


class Graph(Engine):
    """Graphs have one knob: how many vertices a search keeps in view."""

    def settings(self, k):
        return [dict(width=width) for width in WIDTHS if width >= k]


class Hnswlib(Graph):
    name = "hnswlib"

    def __init__(self, data, config):
        super().__init__(", ".join(f"{key}={value}" for key, value in config.items()))
        import hnswlib

        def build():
            index = hnswlib.Index(space="l2" if data.metric == "l2" else "ip", dim=data.base.shape[1])
            index.init_index(max_elements=len(data.base), random_seed=100, **config)
            index.add_items(data.base, num_threads=1)
            return index

        self.index = self.timed(build)
        self.sized(lambda folder: self.index.save_index(folder + "/index"))

    @staticmethod
    def configurations(n, d, metric):
        return [dict(M=16, ef_construction=200)]

    def apply(self, k, setting):
        self.k = k
        self.index.set_ef(setting["width"])

    def one(self, q):
        return self.index.knn_query(q, self.k, num_threads=1)[0][0]

    def many(self, queries):
        return self.index.knn_query(queries, self.k, num_threads=1)[0]


class Usearch(Graph):
    name = "usearch"

    def __init__(self, data, config):
        super().__init__(", ".join(f"{key}={value}" for key, value in config.items()))
        from usearch.index import Index

        def build():
            metric = "l2sq" if data.metric == "l2" else "ip"
            index = Index(ndim=data.base.shape[1], metric=metric, **config)
            index.add(np.arange(len(data.base), dtype=np.uint64), data.base, threads=1)
            return index

        self.index = self.timed(build)
        self.sized(lambda folder: self.index.save(folder + "/index"))

    @staticmethod
    def configurations(n, d, metric):
        return [dict(dtype="bf16", connectivity=16, expansion_add=128)]

    def apply(self, k, setting):
        self.k = k
        self.index.expansion_search = setting["width"]

    def one(self, q):
        return self.index.search(q, self.k, threads=1).keys

    def many(self, queries):
        return self.index.search(queries, self.k, threads=1).keys


def is_intel():
    try:
        with open("/proc/cpuinfo") as file:
            return "GenuineIntel" in file.read()
    except OSError:
        return False


class Svs(Graph):
    name = "svs"

    def __init__(self, data, config):
        super().__init__(", ".join(f"{key}={value}" for key, value in config.items()))
        import svs

        self.svs = svs
        n, d = data.base.shape
        alpha, distance = (1.2, svs.DistanceType.L2) if data.metric == "l2" else (0.95, svs.DistanceType.MIP)
        shape = svs.VamanaBuildParameters(alpha=alpha, graph_max_degree=config["degree"], window_size=config["window"])
        with tempfile.TemporaryDirectory() as folder:
            # Compressed data is read from svs's own format; converting to it is not counted as building.
            if config["data"] != "f16":
                svs.write_vecs(data.base, folder + "/base.fvecs")
                svs.convert_vecs_to_svs(folder + "/base.fvecs", folder + "/base.svs", svs.DataType.float32)

            def build():
                if config["data"] == "f16":
                    rows = data.base.astype(np.float16)
                else:
                    rows = svs.VectorDataLoader(folder + "/base.svs", svs.DataType.float32, dims=d)
                    if config["data"] == "LVQ4x8":
                        rows = svs.LVQLoader(rows, primary=4, residual=8, strategy=svs.LVQStrategy.Turbo)
                    else:
                        lvq8 = svs.LeanVecKind.lvq8
                        rows = svs.LeanVecLoader(rows, int(config["data"].removeprefix("LeanVec")), primary_kind=lvq8, secondary_kind=lvq8)
                return svs.Vamana.build(shape, rows, distance, num_threads=1)

            self.index = self.timed(build)
        self.sized(lambda folder: self.index.save(folder + "/config", folder + "/graph", folder + "/data"))

    @staticmethod
    def configurations(n, d, metric):
        if not is_intel():
            # svs ends the process when its compressed data is asked for on other processors.
            return [dict(data="f16", degree=32, window=128)]
        lean = dict(data="LeanVec160", degree=32, window=128)
        return [lean] if metric == "l2" and d > 200 else [dict(data="LVQ4x8", degree=64, window=128)]

    def apply(self, k, setting):
        self.k = k
        parameters = self.index.search_parameters
        parameters.buffer_config = self.svs.SearchBufferConfig(setting["width"], setting["width"])
        self.index.search_parameters = parameters

    def one(self, q):
        return self.index.search(q, self.k)[0][0]

    def many(self, queries):
        return self.index.search(queries, self.k)[0]


class Nearfield(Engine):
    """Through the command: `nearfield build` and `nearfield eval`, the index read into memory."""

    name = "nearfield"

    def __init__(self, data, spec):
        super().__init__(spec)
        self.data = data
        self.path = f"{data.folder}/{spec.replace('/', '')}.nf"
        extra = ["--train-queries", data.train_path] if data.train_path else []
        [built] = self.run("build", "--no-tune", data.base_path, "-o", self.path, "--spec", spec, "--metric", data.metric, "--threads", "1", *extra)
        # The peers' times leave out saving too.
        self.build_s = built["build_s"] - built["stages"]["save"]
        self.bytes = built["index_bytes"]
        [info] = self.run("info", self.path)
        self.n_lists = info["n_lists"]

    @staticmethod
    def configurations(n, d, metric):
        n_lists = 2 ** round(math.log2(3 * math.sqrt(n)))
        if d <= 128:
            return [f"IVF{n_lists},APQ{d // 2}x4,Refine(f16)", f"IVF{n_lists}(soar),APQ{d // 2}x4,Refine(f16)"]
        if metric == "l2":
            sizes = dict.fromkeys((min(s, d), rows) for s, rows in [(128, "f16"), (128, "sq8"), (160, "sq8"), (96, "sq8")])
            scorers = [(f"PCA{s}x8,IVF{n_lists // 4},RRR32", rows) for s, rows in sizes]
        else:
            s = min(192, d)
            rrr, pq = f"PCA{s}x8,IVF{n_lists}(soar),RRR{s // 3 // 16 * 16}x4", f"PCA{s}x8,IVF{2 * n_lists}(soar),APQ{s // 3}x4"
            scorers = [(rrr, "f16"), (rrr, "sq8"), (pq, "f16"), (pq.replace("soar", "soar=3"), "f16")]
        return [f"{scorer},Refine({rows})" for scorer, rows in scorers]

    def run(self, *command):
        done = subprocess.run([self.data.nearfield, *map(str, command), "--json"], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(done.stderr)
        return [json.loads(line) for line in done.stdout.splitlines()]

    def eval(self, k, lists, n_rerank, batch, seconds):
        """Rows of `nearfield eval` for all n_rerank."""
        data = self.data
        effort = ("-k", k, "--n-probe", lists, "--n-rerank", ",".join(map(str, n_rerank)), "--batch", batch)
        paths = (data.queries_path, "--truth", data.truth_path, "--base", data.base_path)
        return self.run("eval", self.path, *paths, *effort, "--seconds", seconds, "--device", "cpu", "--threads", "1", "--load")

    def settings(self, k):
        return [dict(n_probe=lists, n_rerank=n) for lists, n in grid(self.n_lists, k)]


ENGINES = {engine.name: engine for engine in (Lorann, Scann, Faiss, Hnswlib, Usearch, Svs, Nearfield)}
