#!/usr/bin/env python3
"""nearfield beside its peers on the CPU: the same files, one pinned core, in turns.

    python -m venv peers && peers/bin/pip install -r benches/peers/requirements.txt
    cargo build --release
    taskset -c 1 peers/bin/python benches/peers/beside.py BASE.npy QUERIES.npy TRUTH.npy METRIC --out results

METRIC is ip, cosine (rows are normalised for all) or l2. TRUTH has at least the k nearest of each query (`nearfield truth` makes it).
Every configuration is built once, on one thread. A first pass measures all search settings shortly; those near an engine's
best curve are measured again in turns, --rounds times, and medians count. Queries are searched one at a time and in
batches of 1 000. Recall@k counts near-ties (1e-6) for everyone. The tables interpolate (log speed against recall)
on each engine's best curve over its configurations. Peers are called from Python, a microsecond or two a call, nearfield
from its own loop (`nearfield eval`); all hold their index in memory.
"""
import argparse, gc, json, math, os, statistics, sys, tempfile, time

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"
import numpy as np

from engines import ENGINES, Nearfield

BATCH = 1000
# Nothing that takes more effort than a setting of this recall is measured.
ENOUGH = 0.997
# Settings of lower recall are of no interest, nor are those this much slower than the best curve.
LEAST, NEAR = 0.85, 0.8


class Data:
    def __init__(self, args, folder):
        self.folder, self.metric, self.nearfield = folder, args.metric, args.nearfield
        self.base_path, self.queries_path, self.truth_path = args.base, args.queries, args.truth
        self.train_path = args.train_queries
        self.base, self.queries = self.rows(args.base), self.rows(args.queries)
        self.train = self.rows(args.train_queries) if args.train_queries else None
        self.truth = np.load(args.truth)
        if len(self.truth) < len(self.queries) or self.truth.shape[1] < max(map(int, args.k.split(","))):
            raise SystemExit(f"TRUTH: expected {len(self.queries)} rows as wide as the largest -k ({args.k}), got {self.truth.shape}")

    def rows(self, path):
        rows = np.ascontiguousarray(np.load(path), dtype=np.float32)
        if self.metric == "cosine":
            rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        return rows

    def scores(self, i, ids):
        """Of points beside query i, larger is better."""
        if self.metric == "l2":
            return -((self.base[ids] - self.queries[i]) ** 2).sum(1)
        return self.base[ids] @ self.queries[i]

    def recall(self, found, k):
        hits = 0
        for i, ids in enumerate(found):
            ids = np.unique(np.asarray(ids[:k]).astype(np.int64))
            true = self.truth[i, :k]
            missed = ids[~np.isin(ids, true)]
            hits += len(ids) - len(missed)
            missed = missed[(missed >= 0) & (missed < len(self.base))]
            if len(missed):
                worst = self.scores(i, true[-1:])[0]
                hits += int((self.scores(i, missed) >= worst - 1e-6 * max(1.0, abs(worst))).sum())
        return min(1.0, hits / (len(found) * k))


class Point:
    """A setting of a built index, and what was measured there."""

    def __init__(self, engine, k, setting, recall):
        self.engine, self.k, self.setting, self.recall = engine, k, setting, recall
        self.speeds = dict(single=[], batch=[])
        self.p50, self.p99 = [], []

    def speed(self, way):
        return statistics.median(self.speeds[way])

    def row(self):
        engine = self.engine
        return dict(
            engine=engine.name, index=engine.label, k=self.k, recall=self.recall, **self.setting,
            qps_single=self.speed("single"), qps_batch=self.speed("batch"), p50_us=statistics.median(self.p50),
            p99_us=statistics.median(self.p99), build_s=engine.build_s, bytes=engine.bytes,
        )


def scan(engine, data, k):
    """All settings of an index, each measured shortly in batches."""
    points, enough = [], []
    settings = engine.settings(k)
    if isinstance(engine, Nearfield):
        by_lists = {}
        for setting in settings:
            by_lists.setdefault(setting["n_probe"], []).append(setting["n_rerank"])
        for lists, n_rerank in by_lists.items():
            for row in engine.eval(k, lists, n_rerank, BATCH, 0.05):
                point = Point(engine, k, dict(n_probe=row["n_probe"], n_rerank=row["n_rerank"]), row["recall"])
                point.speeds["batch"].append(row["qps"])
                points.append(point)
            if sum(point.recall >= ENOUGH for point in points) > 2:
                break
        return points
    for setting in settings:
        if any(all(setting[name] >= least[name] for name in setting) for least in enough):
            continue
        engine.apply(k, setting)
        engine.many(data.queries[:20])
        found, seconds = batches(engine, data.queries)
        point = Point(engine, k, setting, data.recall(found, k))
        point.speeds["batch"].append(len(data.queries) / seconds)
        points.append(point)
        if point.recall >= ENOUGH:
            enough.append(setting)
    return points


def batches(engine, queries):
    found, seconds = [], 0.0
    for start in range(0, len(queries), BATCH):
        since = time.perf_counter()
        ids = engine.many(queries[start : start + BATCH])
        seconds += time.perf_counter() - since
        found.extend(ids)
    return found, seconds


def measure(point, data, seconds):
    """Measures a setting again, both ways."""
    engine = point.engine
    if isinstance(engine, Nearfield):
        for way, batch in (("batch", BATCH), ("single", 1)):
            [row] = engine.eval(point.k, point.setting["n_probe"], [point.setting["n_rerank"]], batch, seconds)
            point.speeds[way].append(row["qps"])
        point.p50.append(row["p50_ms"] * 1e3)
        point.p99.append(row["p99_ms"] * 1e3)
        return
    engine.apply(point.k, point.setting)
    for q in data.queries[:50]:
        engine.one(q)
    clock, calls, taken, end = time.perf_counter_ns, [], [], time.perf_counter() + seconds
    while time.perf_counter() < end or len(taken) < 3:
        begun = clock()
        for q in data.queries:
            since = clock()
            engine.one(q)
            calls.append(clock() - since)
        taken.append((clock() - begun) / 1e9)
    point.speeds["single"].append(len(data.queries) / statistics.median(taken))
    point.p50.append(np.percentile(calls, 50) / 1e3)
    point.p99.append(np.percentile(calls, 99) / 1e3)
    taken, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end or len(taken) < 3:
        taken.append(batches(engine, data.queries)[1])
    point.speeds["batch"].append(len(data.queries) / statistics.median(taken))


def best_curve(points, way):
    """By recall, each faster than all of higher recall."""
    curve, best = [], 0.0
    for point in sorted(points, key=lambda p: (-p.recall, -p.speed(way))):
        if point.speed(way) > best:
            curve.append(point)
            best = point.speed(way)
    return curve[::-1]


def speed_at(points, way, recall):
    """Queries a second at a recall on the best curve, and the point at or above it."""
    before = None
    for point in best_curve(points, way):
        if point.recall >= recall:
            if before is None:
                return point.speed(way), point
            weight = (recall - before.recall) / (point.recall - before.recall)
            speed = math.exp(math.log(before.speed(way)) * (1 - weight) + math.log(point.speed(way)) * weight)
            return speed, point
        before = point
    return None, None


def near_best(points):
    """The settings of enough recall on the best curve or near it."""
    curve = best_curve(points, "batch")
    keep = []
    for point in points:
        rivals = [p for p in curve if p.recall >= point.recall]
        if LEAST <= point.recall and point.speed("batch") >= NEAR * max(p.speed("batch") for p in rivals):
            keep.append(point)
    return keep


def summary(points, k, targets):
    """A row a recall and way of searching, a column an engine."""
    names = sorted(dict.fromkeys(p.engine.name for p in points), key=lambda name: name != "nearfield")
    lines = [f"\nqueries a second at recall@{k}; in brackets nearfield's over the best peer's", ""]
    lines += [f"| recall@{k} | | " + " | ".join(names) + " |", "|---" * (2 + len(names)) + "|"]
    for target in targets:
        for way, text in (("single", "one at a time"), ("batch", "batches of 1 000")):
            speeds = {name: speed_at([p for p in points if p.engine.name == name], way, target)[0] for name in names}
            best = max((speed or 0.0 for name, speed in speeds.items() if name != "nearfield"), default=0.0)
            cells = ["not reached" if speed is None else f"{speed:,.0f}" for speed in speeds.values()]
            if speeds.get("nearfield") and best:
                cells[0] += f" ({speeds['nearfield'] / best:.2f})"
            lines.append(f"| {target:.2f} | {text} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def table(points, k, targets):
    """Everything about the setting at or above each recall."""
    names = list(dict.fromkeys(p.engine.name for p in points))
    lines = [f"\nrecall@{k}; in brackets nearfield's speed over this peer's", ""]
    lines += ["| recall | engine | one at a time | batch of 1 000 | p50 µs | p99 µs | build s | MB | index, setting |", "|---" * 9 + "|"]
    for target in targets:
        speeds = {name: {way: speed_at([p for p in points if p.engine.name == name], way, target) for way in ("single", "batch")} for name in names}
        own = speeds.get("nearfield", {})
        for name in sorted(names, key=lambda name: -(speeds[name]["single"][0] or 0.0)):
            (single, at), (batch, batch_at) = speeds[name]["single"], speeds[name]["batch"]
            if single is None:
                most = max(p.recall for p in points if p.engine.name == name)
                lines.append(f"| {target:.2f} | {name} | not reached ({most:.3f}) | | | | | | |")
                continue
            cells = []
            for way, speed in (("single", single), ("batch", batch)):
                ratio = f" ({own[way][0] / speed:.2f})" if name != "nearfield" and own.get(way, (None,))[0] else ""
                cells.append(f"{speed:,.0f}{ratio}")
            where = f"{at.engine.label}: {', '.join(f'{v:g}' for v in at.setting.values())}"
            if batch_at.engine is not at.engine:
                where += f"; batch: {batch_at.engine.label}"
            row = (statistics.median(at.p50), statistics.median(at.p99), at.engine.build_s, at.engine.bytes / 1e6)
            lines.append(f"| {target:.2f} | {name} | " + " | ".join(cells) + " | {:.1f} | {:.1f} | {:.1f} | {:.1f} | ".format(*row) + f"{where} |")
    return "\n".join(lines)


def plot(points, k, title, path):
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(12, 5), sharey=True)
    for axis, way, text in zip(axes, ("single", "batch"), ("one query at a time", "batches of 1 000")):
        for name in dict.fromkeys(p.engine.name for p in points):
            curve = best_curve([p for p in points if p.engine.name == name], way)
            style = dict(linewidth=2.5, color="black") if name == "nearfield" else {}
            axis.plot([p.recall for p in curve], [p.speed(way) for p in curve], marker="o", markersize=3, label=name, **style)
        axis.set(xlabel=f"recall@{k}", yscale="log", title=text, xlim=(LEAST, 1.0))
        axis.grid(True, which="both", alpha=0.3)
    axes[0].set_ylabel("queries a second, one thread")
    axes[1].legend()
    figure.suptitle(title)
    figure.tight_layout()
    figure.savefig(path)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("base", "queries", "truth"):
        parser.add_argument(name)
    parser.add_argument("metric", choices=("ip", "cosine", "l2"))
    parser.add_argument("--train-queries", help="training queries for engines that take them: lorann and nearfield")
    parser.add_argument("--engines", default=",".join(ENGINES), help="which, separated by commas")
    parser.add_argument("--specs", nargs="*", help="nearfield's specifications; some that did well if not given")
    parser.add_argument("-k", default="10,100", help="neighbours: one table and plot each")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=0.2, help="of each measurement in a round")
    parser.add_argument("--recalls", default="0.90,0.95,0.99")
    parser.add_argument("--out", help="folder for the measured points (JSON lines) and the plots (SVG)")
    parser.add_argument("--nearfield", default="target/release/nearfield", help="the program, as `cargo build --release` makes it")
    args = parser.parse_args()
    if "nearfield" in args.engines and not os.access(args.nearfield, os.X_OK):
        parser.error(f"--nearfield: expected the program, got {args.nearfield}: cargo build --release makes it")
    if not all(k.isdigit() and int(k) > 0 for k in args.k.split(",")):
        parser.error(f"-k: expected numbers like 10,100, got {args.k}")
    unknown = set(args.engines.split(",")) - set(ENGINES)
    if unknown:
        parser.error(f"--engines: expected some of {', '.join(ENGINES)}, got {', '.join(unknown)}")
    if hasattr(os, "sched_getaffinity") and len(os.sched_getaffinity(0)) > 1:
        print("not pinned to one core (taskset -c 1): speeds may waver", file=sys.stderr)
    with tempfile.TemporaryDirectory() as folder:
        data = Data(args, folder)
        n, d = data.base.shape
        built = []
        for name in args.engines.split(","):
            kind = ENGINES[name]
            configs = args.specs if kind is Nearfield and args.specs else kind.configurations(n, d, args.metric)
            for config in configs:
                try:
                    engine = kind(data, config)
                except Exception as error:
                    reason = (str(error).strip() or repr(error)).splitlines()[0]
                    print(f"{name:10} {config} left out: {reason}", flush=True)
                    continue
                built.append(engine)
                print(f"{name:10} {engine.label:60} build {engine.build_s:7.1f} s  {engine.bytes / 1e6:8.1f} MB", flush=True)
        if "nearfield" in args.engines.split(",") and not any(isinstance(engine, Nearfield) for engine in built):
            raise SystemExit("nearfield: expected at least one index, none was built")
        gc.collect()
        for k in map(int, args.k.split(",")):
            points = []
            for name in args.engines.split(","):
                own = [point for engine in built if engine.name == name for point in scan(engine, data, k)]
                if not own:
                    continue
                kept = near_best(own) or sorted(own, key=lambda p: -p.recall)[:1]
                print(f"k = {k}: {name}, {len(own)} settings, {len(kept)} measured again", file=sys.stderr, flush=True)
                points += kept
            for point in points:
                point.speeds = dict(single=[], batch=[])
            for _ in range(args.rounds):
                for point in points:
                    measure(point, data, args.seconds)
            targets = [float(r) for r in args.recalls.split(",")]
            print(summary(points, k, targets))
            print(table(points, k, targets), flush=True)
            if args.out:
                os.makedirs(args.out, exist_ok=True)
                with open(f"{args.out}/at{k}.jsonl", "w") as file:
                    file.writelines(json.dumps(point.row()) + "\n" for point in points)
                plot(points, k, f"{os.path.abspath(args.base)}, {n} × {d}, {args.metric}", f"{args.out}/at{k}.svg")


if __name__ == "__main__":
    main()
