"""What routers are worth: the share of the true ten nearest in the lists that a query reads, against the number of lists.

    python benches/routers.py base.npy query.npy gt.npy ip [--lists 1024] [--train-queries train.npy] [--transform PCA128] \\
        [--routers centroids linear cnn,width=32] [--out results]

The lists are the same for all routers of a run; points in them are compared exactly (with a transform, the thousand that it puts first),
so what is not found was not in them. The oracle knows which lists hold the true ten, and reads those that hold most first. Prints how
many lists must be read for some shares, and what a query takes to choose them, alone on one core; writes one file of JSON lines a
router for `nearfield plot --axes lists`. `router=cnn` wants the program built with `--features neural`.
"""

import argparse
import json
import subprocess
import tempfile
from pathlib import Path

import numpy as np

SHARES = (0.90, 0.95, 0.99)
K = 10


def run(*command):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(map(str, command))}\n{done.stderr}")
    return [json.loads(line) for line in done.stdout.splitlines()]


def choice(nearfield, index, query, truth):
    """What a query takes to choose its lists, alone on one core: the profile's row `route`, in milliseconds after the number of calls."""
    command = [nearfield, "eval", index, query, "--truth", truth, "-k", K, "--n-probe", 1, "--batch", 1, "--threads", 1, "--device", "cpu", "--profile"]
    said = subprocess.run([str(part) for part in command], capture_output=True, text=True).stderr
    _, calls, milliseconds = next(line.split()[:3] for line in said.splitlines() if line.startswith("route"))
    return f"{1e3 * float(milliseconds) / float(calls):.1f} µs"


def tensors(path):
    """The tensors of an index file, by name."""
    data = np.memmap(path, np.uint8, "r")
    n = int(data[:8].view("<u8")[0])
    header = json.loads(bytes(data[8 : 8 + n]))
    kinds = {"U32": "<u4", "U64": "<u8"}
    return {
        name: data[8 + n + t["data_offsets"][0] : 8 + n + t["data_offsets"][1]].view(kinds[t["dtype"]])
        for name, t in header.items()
        if name != "__metadata__" and t["dtype"] in kinds
    }


def oracle(path, truth):
    """Shares found by the best lists of each query, from one list on."""
    held = tensors(path)
    offsets, ids = held["lists.offsets"].astype(int), held["lists.ids"].astype(int)
    list_of = np.empty(len(ids), int)
    list_of[ids] = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    found = np.zeros(K)
    for lists in list_of[truth[:, :K]]:
        counts = np.sort(np.unique(lists, return_counts=True)[1])[::-1]
        found[: len(counts)] += counts
    return np.cumsum(found) / (len(truth) * K)


def needed(lists, recalls, share):
    """Lists to be read for a share: between two measured points on a straight line."""
    reached = np.flatnonzero(np.asarray(recalls) >= share)
    if not len(reached):
        return "—"
    i = reached[0]
    if i == 0:
        return str(lists[0])
    (a, b), (x, y) = lists[i - 1 : i + 1], recalls[i - 1 : i + 1]
    return str(int(np.ceil(a + (share - x) / (y - x) * (b - a))))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", type=Path)
    parser.add_argument("query", type=Path)
    parser.add_argument("truth", type=Path)
    parser.add_argument("metric", choices=("ip", "cosine", "l2"))
    parser.add_argument("--lists", type=int, default=1024)
    parser.add_argument("--options", default="", help="further options of IVF: soar=2")
    parser.add_argument("--routers", nargs="+", default=("centroids", "linear"), help="a router, and its options after commas")
    parser.add_argument("--transform", default="", help="ahead of the lists: PCA128")
    parser.add_argument("--train-queries", type=Path)
    parser.add_argument("--out", type=Path, help="folder for the JSON lines")
    parser.add_argument("--nearfield", default="target/release/nearfield")
    args = parser.parse_args()
    truth = np.load(args.truth)
    probes = sorted({min(args.lists, round(1.15**i)) for i in range(0, 200)} | set(range(1, min(16, args.lists) + 1)))
    trained = ["--train-queries", args.train_queries] if args.train_queries else []
    print("| router | " + " | ".join(f"{share:.2f}" for share in SHARES) + " | choosing | build |\n|" + "---|" * (len(SHARES) + 3))
    with tempfile.TemporaryDirectory() as folder:
        index = f"{folder}/index.nf"
        for router in args.routers:
            options = [args.options] if args.options else []
            options += [f"router={router}"] if router != "centroids" else []
            spec = f"IVF{args.lists}" + (f"({','.join(options)})" if options else "") + ",Flat"
            if args.transform:
                spec = f"{args.transform},{spec},Refine(f32)"
            [built] = run(args.nearfield, "build", "--no-tune", args.base, "-o", index, "--metric", args.metric, "--spec", spec, *trained, "--json")
            rows = []
            # A few at a time, until nearly all is found: many lists take long.
            for some in (probes[i : i + 6] for i in range(0, len(probes), 6)):
                if not rows or rows[-1]["recall"] < max(SHARES):
                    rows += run(
                        args.nearfield, "eval", index, args.query, "--truth", args.truth, "-k", K, "--json", "--device", "cpu",
                        "--n-rerank", 1000, "--n-probe", ",".join(map(str, some)),
                    )
            recalls = [row["recall"] for row in rows]
            cells = [needed(probes, recalls, share) for share in SHARES]
            choosing = choice(args.nearfield, index, args.query, args.truth)
            print(f"| {router} | {' | '.join(cells)} | {choosing} | {built['build_s']:.1f} s |", flush=True)
            if args.out:
                args.out.mkdir(parents=True, exist_ok=True)
                lines = [json.dumps({**row, "name": router}) for row in rows]
                (args.out / f"{router}.jsonl").write_text("\n".join(lines) + "\n")
        if not args.options:
            found = oracle(index, truth)
            print(f"| oracle | {' | '.join(needed(range(1, K + 1), found, share) for share in SHARES)} | | |")
            if args.out:
                row = {"spec": "oracle", "metric": args.metric, "device": "cpu", "k": K, "name": "oracle"}
                lines = [json.dumps({**rows[-1], **row, "n_probe": i + 1, "recall": r}) for i, r in enumerate(found)]
                (args.out / "oracle.jsonl").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
