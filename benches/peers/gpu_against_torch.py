#!/usr/bin/env python3
"""nearfield on a GPU beside two programs in PyTorch on the same GPU: brute force, and low-rank scoring as LoRANN does it
on GPUs (every query gathers the matrices of its clusters).

    cargo build --release
    python benches/peers/gpu_against_torch.py [--set FOLDER:METRIC ...] [--made 1000000x384]

A FOLDER holds base.npy, query.npy and perhaps gt.npy. The made set is clustered Gaussians with a decaying spectrum,
by a fixed seed; its queries are held out. Every engine sweeps its efforts once, in batches of 1 024; for each recall@10
the fastest effort that reaches it is then timed at every batch. Both sides keep their index on the device; queries go
up and results come back within the time measured. Tables go to stdout as Markdown, rows of JSON to --output.

After --minutes nothing new is begun: what was measured until then is printed.
Without a GPU, `--device gpu:llvmpipe --torch cpu --made 20000x64` shows that it works, and nothing more.
"""
import argparse, json, os, subprocess, sys, tempfile, time

import numpy as np
import torch

K = 10
TARGETS = [0.90, 0.95, 0.99]
SWEPT = 1024


def made(shape):
    """n × d: 1 + n/1000 clusters on a decaying spectrum, and 10 000 queries from the same clusters."""
    n, d = shape
    random = np.random.default_rng(7)
    spectrum = (1.0 / np.sqrt(1.0 + np.arange(d) / 8.0)).astype(np.float32)
    centres = random.standard_normal((1 + n // 1000, d), dtype=np.float32) * spectrum
    rows = np.empty((n + 10_000, d), np.float32)
    for start in range(0, len(rows), 1 << 16):
        part = rows[start : start + (1 << 16)]
        random.standard_normal(out=part, dtype=np.float32)
        part *= spectrum * 0.6
        part += centres[random.integers(len(centres), size=len(part))]
        part /= np.linalg.norm(part, axis=1, keepdims=True)
    return rows[:n], rows[n:]


def exact(base, queries, metric, device):
    """Ids of the K nearest, in f32, ties as they come."""
    x = torch.from_numpy(base).to(device)
    norms = (x * x).sum(1)
    ids = []
    for q in torch.from_numpy(queries).to(device).split(256):
        scores = q @ x.T
        scores = 2 * scores - norms if metric == "l2" else scores
        ids.append(scores.topk(K).indices.cpu())
    return torch.cat(ids).numpy()


def recall(found, truth):
    hits = sum(len(set(f[:K]) & set(t[:K])) for f, t in zip(found.tolist(), truth.tolist()))
    return hits / (K * len(truth))


class Torch:
    """What both programs share: data on the device, timing by whole batches with transfers."""

    def __init__(self, base, metric, device):
        self.device, self.metric = device, metric
        self.half = device.type == "cuda"
        self.x = torch.from_numpy(base).to(device)
        self.norms = (self.x * self.x).sum(1)

    def run(self, queries, effort):
        """Ids of a batch, back on the host."""
        return self.search(torch.from_numpy(queries).to(self.device), effort).cpu()

    def time(self, queries, batch, effort):
        batches = [queries[i : i + batch] for i in range(0, len(queries), batch)]
        batches = [b for b in batches if len(b) == batch][:64]
        self.run(batches[0], effort)
        calls, since = [], time.perf_counter()
        while len(calls) < 3 or time.perf_counter() - since < 0.5:
            for b in batches:
                call = time.perf_counter()
                self.run(b, effort)
                calls.append(time.perf_counter() - call)
                if len(calls) >= 3 and time.perf_counter() - since >= 0.5:
                    break
        return batch / float(np.median(calls))


class BruteForce(Torch):
    name = "brute force, torch"
    efforts = [()]

    def __init__(self, base, metric, device):
        super().__init__(base, metric, device)
        # f16 holds unit vectors; others stay in f32, multiplied as TF32.
        self.halved = self.half and metric != "l2"
        self.table = self.x.half() if self.halved else self.x

    def search(self, q, _):
        out = []
        for part in q.split(1024):
            scores = (part.half() if self.halved else part) @ self.table.T
            scores = 2 * scores - self.norms if self.metric == "l2" else scores
            out.append(scores.topk(K).indices)
        return torch.cat(out)


class LowRank(Torch):
    """LoRANN's scoring with query-major gathers: clusters padded to one size, two batched products, top-k, rerank."""

    name = "low rank by gathers, torch"

    def __init__(self, base, metric, device, n_clusters, s, rank):
        super().__init__(base, metric, device)
        sample = self.x[torch.randperm(len(self.x), generator=torch.Generator().manual_seed(1))[:16384].to(device)]
        w = torch.linalg.eigh(sample.T @ sample).eigenvectors.flip(1)[:, :s]
        reduced = self.x @ w
        centres = reduced[torch.randperm(len(self.x), generator=torch.Generator().manual_seed(2))[:n_clusters].to(device)].clone()
        for _ in range(8):
            owner = self.assign(reduced, centres)
            sums = torch.zeros_like(centres).index_add_(0, owner, reduced)
            counts = torch.bincount(owner, minlength=n_clusters).clamp(min=1)[:, None]
            centres = sums / counts
        owner = self.assign(reduced, centres)
        order = owner.argsort()
        counts = torch.bincount(owner, minlength=n_clusters)
        most = int(counts.max())
        dtype = torch.float16 if self.half else torch.float32
        self.members = torch.full((n_clusters, most), -1, device=device)
        self.a = torch.zeros(n_clusters, s, rank, device=device, dtype=dtype)
        self.b = torch.zeros(n_clusters, rank, most, device=device, dtype=dtype)
        start = 0
        for cluster, count in enumerate(counts.tolist()):
            ids = order[start : start + count]
            start += count
            if count == 0:
                continue
            points = reduced[ids]
            # Exact targets are linear in the query: the best rank-r map is that of the products' right singular vectors.
            products = points @ points.T
            v = torch.linalg.eigh(products @ products).eigenvectors.flip(1)[:, :rank]
            self.members[cluster, :count] = ids
            self.a[cluster, :, : v.shape[1]] = (points.T @ v).to(dtype)
            self.b[cluster, : v.shape[1], :count] = v.T.to(dtype)
        self.w, self.centres, self.dtype = w, centres, dtype
        self.centre_norms = (centres * centres).sum(1)
        shares = [0.005, 0.01, 0.02, 0.04, 0.08, 0.16]
        probes = sorted({max(1, round(n_clusters * share)) for share in shares})
        self.efforts = [(p, t) for p in probes for t in (50, 100, 200, 400) if t <= p * most]

    def assign(self, rows, centres):
        norms = (centres * centres).sum(1)
        return torch.cat([(2 * part @ centres.T - norms).argmax(1) for part in rows.split(1 << 16)])

    def search(self, q, effort):
        # Gathers of A and B decide how many queries fit: at most 4 GB of them.
        each = effort[0] * (self.a[0].numel() + self.b[0].numel()) * self.a.element_size()
        return torch.cat([self.part(part, *effort) for part in q.split(max(1, int(4e9 // each)))])

    def part(self, q, n_probe, n_rerank):
        reduced = q @ self.w
        scores = reduced @ self.centres.T
        scores = 2 * scores - self.centre_norms if self.metric == "l2" else scores
        lists = scores.topk(n_probe).indices
        t = torch.einsum("qs,qpsr->qpr", reduced.to(self.dtype), self.a[lists])
        scores = torch.einsum("qpr,qprm->qpm", t, self.b[lists]).float().flatten(1)
        ids = self.members[lists].flatten(1)
        if self.metric == "l2":
            scores = 2 * scores - self.norms[ids.clamp(min=0)]
        scores = scores.masked_fill(ids < 0, -torch.inf)
        ids = ids.gather(1, scores.topk(n_rerank).indices)
        rows = self.x[ids.clamp(min=0)]
        scores = torch.einsum("qd,qtd->qt", q, rows)
        scores = 2 * scores - self.norms[ids.clamp(min=0)] if self.metric == "l2" else scores
        scores = scores.masked_fill(ids < 0, -torch.inf)
        return ids.gather(1, scores.topk(K).indices)


class Nearfield:
    """The command, whose `eval` times batches with transfers."""

    def __init__(self, args, folder, metric, spec):
        self.name, self.args, self.folder = f"nearfield {spec}", args, folder
        self.index = os.path.join(folder, "index.nf")
        self.call("build", "--no-tune", f"{folder}/base.npy", "-o", self.index, "--spec", spec, "--metric", metric, "--json")
        info = self.call("info", self.index, "--json")[0]
        n_lists = info["n_lists"]
        shares = [0.005, 0.01, 0.02, 0.04, 0.08, 0.16]
        self.probes = sorted({max(1, round(n_lists * share)) for share in shares})

    def call(self, *arguments):
        done = subprocess.run([self.args.nearfield, *arguments], capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"nearfield {' '.join(arguments)}\n{done.stderr}")
        return [json.loads(line) for line in done.stdout.splitlines()]

    def eval(self, queries, truth, batch, probes, reranks):
        device = ["--device", self.args.device]
        lists = [",".join(map(str, values)) for values in (probes, reranks)]
        return self.call(
            "eval", self.index, queries, "--truth", truth, "--batch", str(batch), "--json", "--load",
            "--n-probe", lists[0], "--n-rerank", lists[1], *device,
        )


def fastest(rows):
    """By target: the fastest of the (recall, qps, effort) rows that reaches it."""
    chosen = {}
    for target in TARGETS:
        good = [row for row in rows if row[0] >= target]
        if good:
            chosen[target] = max(good, key=lambda row: row[1])
    return chosen


def one_set(args, name, base, queries, metric, truth, specs, deadline, out):
    device = torch.device(args.torch)
    batches = args.batches
    base, queries = np.ascontiguousarray(base, np.float32), np.ascontiguousarray(queries, np.float32)
    if metric == "cosine":
        base, queries = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (base, queries))
    if truth is None:
        truth = exact(base, queries, metric, device)
    most = max(batches)
    many = np.resize(np.arange(len(queries)), most)
    table = {}

    def note(engine, target, batch, qps, found, effort):
        table.setdefault((engine, target), {})[batch] = qps
        row = dict(set=name, engine=engine, target=target, batch=batch, qps=qps, recall=found, effort=effort)
        print(json.dumps(row), file=out, flush=True)

    with tempfile.TemporaryDirectory() as folder:
        np.save(f"{folder}/base.npy", base)
        np.save(f"{folder}/query.npy", queries[:SWEPT])
        np.save(f"{folder}/gt.npy", truth[:SWEPT].astype(np.int64))
        np.save(f"{folder}/many.npy", queries[many])
        np.save(f"{folder}/many_gt.npy", truth[many].astype(np.int64))
        for spec in specs:
            engine = Nearfield(args, folder, metric, spec)
            rows = engine.eval(f"{folder}/query.npy", f"{folder}/gt.npy", "all", engine.probes, [50, 100, 200, 400])
            chosen = fastest([(r["recall"], r["qps"], (r["n_probe"], r["n_rerank"])) for r in rows])
            for batch in batches:
                for target, (found, _, effort) in chosen.items():
                    if time.perf_counter() > deadline:
                        break
                    # A few calls of small batches tell as much as all of them.
                    calls = min(most, batch * 64)
                    np.save(f"{folder}/some.npy", queries[many[:calls]])
                    np.save(f"{folder}/some_gt.npy", truth[many[:calls]].astype(np.int64))
                    [row] = engine.eval(f"{folder}/some.npy", f"{folder}/some_gt.npy", batch, effort[:1], effort[1:])
                    note(engine.name, target, batch, row["qps"], found, effort)
    n_clusters = args.clusters or 1 << int(np.round(np.log2(np.sqrt(len(base)))))
    s = min(128, base.shape[1])
    for make in (lambda: BruteForce(base, metric, device), lambda: LowRank(base, metric, device, n_clusters, s, min(32, s))):
        if time.perf_counter() > deadline:
            print(f"({name}: no time left for torch)")
            break
        engine = make()
        rows = []
        for effort in engine.efforts:
            if time.perf_counter() > deadline:
                break
            found = engine.run(queries[:SWEPT], effort).numpy()
            rows.append((recall(found, truth[:SWEPT]), engine.time(queries[many], min(SWEPT, len(many)), effort), effort))
        for target, (found, _, effort) in fastest(rows).items():
            for batch in batches:
                if time.perf_counter() < deadline:
                    note(engine.name, target, batch, engine.time(queries[many], batch, effort), found, effort)
        del engine
        if device.type == "cuda":
            torch.cuda.empty_cache()
    print(f"\n### {name}: {len(base)} × {base.shape[1]}, {metric}\n\nqueries/s at recall@{K} by batch\n")
    print("| recall | engine | " + " | ".join(map(str, batches)) + " |\n|---|---|" + "---:|" * len(batches))
    for target in TARGETS:
        for (engine, t), qps in table.items():
            if t == target:
                cells = [f"{qps[b]:,.0f}" if b in qps else "–" for b in batches]
                print(f"| {target:.2f} | {engine} | " + " | ".join(cells) + " |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", action="append", default=[], help="FOLDER:METRIC[:SPEC]")
    parser.add_argument("--made", help="rows×dims of a made set, as 1000000x384 (cosine)")
    parser.add_argument("--spec", action="append", help="may be given again; regressions and codes if not given")
    parser.add_argument("--clusters", type=int, help="clusters of the program in torch; about √n if not given")
    parser.add_argument("--batches", type=lambda s: [int(b) for b in s.split(",")], default=[1, 16, 256, 4096, 10000])
    parser.add_argument("--device", default="gpu")
    parser.add_argument("--torch", default="cuda")
    parser.add_argument("--nearfield", default="target/release/nearfield")
    parser.add_argument("--output", default="gpu.jsonl")
    parser.add_argument("--minutes", type=float, default=8)
    args = parser.parse_args()

    def specs(base, given):
        return [given] if given else args.spec or ["PCA128,IVF,RRR32,Refine(f16)", f"IVF,APQ{base.shape[1] // 2}x4,Refine(f16)"]

    torch.set_float32_matmul_precision("high")
    deadline = time.perf_counter() + args.minutes * 60
    subprocess.run([args.nearfield, "devices"])
    with open(args.output, "w") as out:
        for given in args.set:
            if time.perf_counter() > deadline:
                sys.exit(f"no time left for {given}")
            folder, metric, spec, *_ = (given + ":").split(":")
            load = lambda file: np.load(f"{folder}/{file}.npy")
            base, queries = load("base"), load("query")
            truth = load("gt") if os.path.exists(f"{folder}/gt.npy") else None
            one_set(args, os.path.basename(folder.rstrip("/")), base, queries, metric, truth, specs(base, spec), deadline, out)
        if args.made and time.perf_counter() < deadline:
            base, queries = made([int(v) for v in args.made.split("x")])
            one_set(args, f"made {args.made}", base, queries, "cosine", None, specs(base, None), deadline, out)


main()
