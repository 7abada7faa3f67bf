#!/usr/bin/env python3
"""What each of several specifications reaches on one set: queries a second at recall@10, build time, bytes.

    cargo build --release
    taskset -c 1 python benches/frontier.py base.npy query.npy gt.npy cosine IVF1024,APQ50x4 "IVF1024(soar=1),APQ50x4"

One thread builds and searches, one query at a time unless --batch says all. For every specification `nearfield eval` runs
through some n_probe and n_rerank; the fastest that reaches each recall counts. A Markdown table goes to stdout.
"""
import argparse, json, os, subprocess, sys, tempfile

SHARES = [0.001, 0.002, 0.004, 0.006, 0.009, 0.012, 0.016, 0.02, 0.03, 0.045, 0.065, 0.1, 0.14, 0.2, 0.3, 0.45]
TARGETS = [0.90, 0.95, 0.99]


def call(*command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return [json.loads(line) for line in done.stdout.splitlines()]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("base", "queries", "truth"):
        parser.add_argument(name)
    parser.add_argument("metric", choices=("ip", "cosine", "l2"))
    parser.add_argument("specs", nargs="+")
    parser.add_argument("--nearfield", default="target/release/nearfield", help="the program, as `cargo build --release` makes it")
    parser.add_argument("--train-queries", help="a sample of queries, where they are of another kind than the points")
    parser.add_argument("--batch", default="1", help="1, all, or a number")
    parser.add_argument("--n-rerank", default="20,30,50,100,200")
    parser.add_argument("--seconds", type=float, default=0.2, help="of one measurement")
    args = parser.parse_args()
    if not os.access(args.nearfield, os.X_OK):
        parser.error(f"--nearfield: expected the program, got {args.nearfield}: cargo build --release makes it")
    print("| specification | a copy | build | size | " + " | ".join(f"{t:.2f}" for t in TARGETS) + " |")
    print("|---" * (4 + len(TARGETS)) + "|")
    with tempfile.TemporaryDirectory() as folder:
        index = os.path.join(folder, "index.nf")
        for spec in args.specs:
            build = ("build", "--no-tune", args.base, "-o", index, "--spec", spec, "--metric", args.metric, "--threads", "1", "--json")
            if args.train_queries:
                build += ("--train-queries", args.train_queries)
            [built] = call(args.nearfield, *build)
            [info] = call(args.nearfield, "info", index, "--json")
            n_lists = info["n_lists"]
            probes = sorted({max(1, round(n_lists * share)) for share in SHARES})
            efforts = ("--n-probe", ",".join(map(str, probes)), "--n-rerank", args.n_rerank, "--batch", args.batch)
            rows = call(args.nearfield, "eval", index, args.queries, "--truth", args.truth, *efforts, "--device", "cpu", "--load", "--threads", "1", "--seconds", str(args.seconds), "--json")
            cells = []
            for target in TARGETS:
                good = [row for row in rows if row["recall"] >= target]
                best = max(good, key=lambda row: row["qps"], default=None)
                cells.append(f"{best['qps']:,.0f} ({best['n_probe']}, {best['n_rerank']})" if best else "not reached")
            copy = f"{info['copy_bytes'] / info['n']:.0f} B" if info["lists_a_point"] > 1 else "—"
            seconds = built["build_s"] - built["stages"]["save"]
            print(f"| `{spec}` | {copy} | {seconds:.1f} s | {built['index_bytes'] / 1e6:.1f} MB | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
