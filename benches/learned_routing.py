#!/usr/bin/env python3
"""The experiments of the two-layer convolutional index, on word vectors: six settings, four tables, the paper's figures beside ours.

    cargo build --release --features neural
    python -m venv peers && peers/bin/pip install numpy torch
    peers/bin/python benches/learned_routing.py base.npy query.npy --rows rows.jsonl [--published]

BASE are vectors in the order of their words' frequency: settings take the first 10 000, 20 000 and 50 000 of them, in 10 and in 100
clusters, under cosine. Queries are words that are not among them. A query's label is its cluster by the nearest centroid. What is built:

    IVF<L>(router=cnn,labels),CNN   the paper's pipeline, layer 1 trained on labels
    IVF<L>(router=cnn,width=32),CNN layer 1 trained on the lists of true neighbours, a narrower one
    PCA32,IVF<L>(router=cnn,width=32),CNN(width=32)
                                    the same in 32 of the 100 dimensions, where products are no longer exact; up to 20 000 points
    IVF<L>,APQ50x4,Refine(f16)      ScaNN

What a setting gives is a line of ROWS; lines that are there are not measured again.

--published trains the networks as the paper has them, by torch: 1-D convolutions of 128, 128 and 256 channels and one dense layer to
the clusters, or for two clusters of each setting to their points; cross-entropy, SGD (rate 0.01, batches of 32), an end after three
epochs without a better accuracy on a tenth held out. It also takes layer 2 as it starts, with a row of the dense layer for each point
that is the point's own features: what convolutions alone can do. On a GPU, if torch has one; two hours on two cores.

All commands run on two threads but for times per query, which are of one. The paper's tables are known to us by their range alone.
"""
import argparse, json, subprocess, sys, tempfile, time
from pathlib import Path

import numpy as np

SETTINGS = [f"{n_lists}x{n}" for n_lists in (10, 100) for n in (10_000, 20_000, 50_000)]
PIPELINE = "IVF{}(router=cnn,labels),CNN"
NEIGHBOURS = "IVF{}(router=cnn,width=32),CNN"
REDUCED = "PCA32,IVF{}(router=cnn,width=32),CNN(width=32)"
# Of which the networks take minutes to train for ten thousand points, and hours for fifty.
REDUCED_POINTS = 20_000
SCANN = "IVF{},APQ50x4,Refine(f16)"
PLACES = 5


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def tensor(path, name):
    """A tensor of whole numbers of an index file."""
    data = np.memmap(path, np.uint8, "r")
    n = int(data[:8].view("<u8")[0])
    entry = json.loads(bytes(data[8 : 8 + n]))[name]
    start, end = entry["data_offsets"]
    return data[8 + n + start : 8 + n + end].view({"U32": "<u4", "U64": "<u8"}[entry["dtype"]]).astype(int)


class Setting:
    """Points, queries, and the exact answers."""

    def __init__(self, n, n_lists, args, folder):
        self.n_lists, self.args, self.folder = n_lists, args, folder
        self.points, self.queries = (unit(np.load(path).astype(np.float32)) for path in (args.base, args.query))
        self.points = self.points[:n]
        self.base = folder / "base.npy"
        np.save(self.base, np.load(args.base)[:n])
        self.nearest = (self.queries @ self.points.T).argmax(1)
        # The lists of all specifications are the same: one seed, and the same k-means.
        index = self.build("IVF{},Flat")
        offsets, ids = tensor(index, "lists.offsets"), tensor(index, "lists.ids")
        self.list_of = np.empty(n, int)
        self.list_of[ids] = np.repeat(np.arange(n_lists), np.diff(offsets))
        self.label = self.list_of[self.search(index, 1)[:, 0]]

    def run(self, *command):
        done = subprocess.run([self.args.nearfield, *map(str, command)], capture_output=True, text=True)
        if done.returncode:
            sys.exit(done.stderr)
        return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]

    def build(self, spec):
        index = self.folder / "index.nf"
        self.built = self.run("build", "--no-tune", self.base, "-o", index, "--metric", "cosine", "--spec", spec.format(self.n_lists), "--json")[-1]
        return index

    def search(self, index, k, *more):
        out = self.folder / "ids.npy"
        self.run("search", index, self.args.query, "-k", k, "--n-probe", 1, "--device", "cpu", *more, "-o", out, "--json")
        return np.load(out).astype(int).reshape(len(self.queries), k)

    def distance(self, found):
        """Mean distance between what was found first and the true nearest."""
        return np.linalg.norm(self.points[found] - self.points[self.nearest], axis=1).mean().item()

    def awake(self, index):
        """The index with every network computed, also those that are nothing: deviation and its inverse stand first in a network's biases."""
        data = bytearray(index.read_bytes())
        n = int.from_bytes(data[:8], "little")
        header = json.loads(bytes(data[8 : 8 + n]))
        for name in ("router.network_biases", "cnn.biases"):
            start, end = (8 + n + at for at in header[name]["data_offsets"])
            biases = np.frombuffer(data, np.float32, (end - start) // 4, start).reshape(header[name]["shape"])
            biases[biases[:, 0] == 0, :2] = 1
        index.write_bytes(data)
        return index

    def microseconds(self, index, *more):
        """Of a query alone on one core, in the median."""
        out = self.folder / "truth.npy"
        np.save(out, self.nearest[:, None].astype(np.int64))
        command = ("eval", index, self.args.query, "--truth", out, "-k", 1, "--batch", 1, "--threads", 1, "--device", "cpu", "--json")
        return 1e3 * self.run(*command, *more)[-1]["p50_ms"]

    def nearest_inside(self, lists):
        """The nearest point of the list that each query reads."""
        scores = self.queries @ self.points.T
        return np.where(self.list_of[None] == lists[:, None], scores, -np.inf).argmax(1)

    def measure(self):
        """The figures of this setting by name."""
        rng = np.random.default_rng(7)
        row = {"random": self.distance(rng.integers(len(self.points), size=len(self.queries)))}
        specs = [("pipeline", PIPELINE), ("neighbours", NEIGHBOURS)]
        if len(self.points) <= REDUCED_POINTS:
            specs.append(("reduced", REDUCED))
        for name, spec in specs:
            index = self.build(spec)
            found = self.search(index, PLACES)
            read = self.list_of[found[:, 0]]
            inside = self.nearest_inside(read)
            row[name] = {
                "distance": self.distance(found[:, 0]),
                "layer1": float(np.mean(read == self.label)),
                "holds": float(np.mean(read == self.list_of[self.nearest])),
                "layer2": float(np.mean([p in places for p, places in zip(inside, found)])),
                "time": self.microseconds(index, "--n-probe", 1),
                "build": self.built["build_s"],
                "bytes": self.built["index_bytes"],
            }
            row[name]["awake"] = self.microseconds(self.awake(index), "--n-probe", 1)
        index = self.build(SCANN)
        for n_probe in (1, 5):
            effort = ("--n-rerank", 10, "--n-probe", n_probe)
            ids = self.folder / "ids.npy"
            self.run("search", index, self.args.query, "-k", 1, "--device", "cpu", *effort, "-o", ids, "--json")
            found = np.load(ids).astype(int).ravel()
            row[f"scann{n_probe}"] = {"distance": self.distance(found), "time": self.microseconds(index, *effort)}
        return row


def published(setting):
    """The paper's networks by torch: accuracies of layer 1, of layer 2 in the first five, and of features alone."""
    import torch
    from torch import nn

    torch.manual_seed(7)
    torch.set_default_device("cuda" if torch.cuda.is_available() else "cpu")
    spread = float(np.sqrt(np.mean(setting.points**2)))

    def convolve(x, weights, biases):
        zeros = torch.zeros(x.shape[0], 1, x.shape[2])
        x = torch.cat([zeros, x, zeros], 1)
        return torch.relu(torch.cat([x[:, :-2], x[:, 1:-1], x[:, 2:]], 2) @ weights + biases)

    class Network(nn.Module):
        def __init__(self, d, channels, n_classes):
            super().__init__()
            sizes = [(channels, 128), (128, 128), (128, 256)]
            self.weights = nn.ParameterList([torch.randn(3 * a, b) * (2 / (3 * a)) ** 0.5 for a, b in sizes])
            self.biases = nn.ParameterList([torch.zeros(b) for _, b in sizes])
            self.dense = nn.Linear(d // 2 * 256, n_classes)

        def features(self, x):
            u = convolve(x, self.weights[0], self.biases[0])
            v = u.reshape(len(u), u.shape[1] // 2, 2, -1).amax(2)
            for i in (1, 2):
                v = convolve(v, self.weights[i], self.biases[i])
            return v.flatten(1)

        def forward(self, x):
            return self.dense(self.features(x))

    def inputs(rows, centre=None):
        channels = [rows] if centre is None else [rows, np.broadcast_to(centre, rows.shape)]
        return torch.tensor(np.stack(channels, 2).astype(np.float32) / spread)

    def places(scores, truth, k):
        truth = torch.tensor(truth)[:, None]
        return (scores.topk(min(k, scores.shape[1]), 1).indices == truth).any(1).float().mean().item()

    def outputs(f, x):
        with torch.no_grad():
            return torch.cat([f(part) for part in x.split(500)])

    def train(network, x, labels):
        labels = torch.tensor(labels)
        order = torch.randperm(len(x))
        held, rest = order[: max(1, len(x) // 10)], order[max(1, len(x) // 10) :]
        sgd = torch.optim.SGD(network.parameters(), 0.01)
        best, waits, epochs = -1.0, 0, 0
        while waits < 3:
            for rows in rest[torch.randperm(len(rest))].split(32):
                sgd.zero_grad()
                nn.functional.cross_entropy(network(x[rows]), labels[rows]).backward()
                sgd.step()
            accuracy = places(outputs(network, x[held]), labels[held], 1)
            best, waits = (accuracy, 0) if accuracy > best else (best, waits + 1)
            epochs += 1
        return epochs

    points, queries, d = setting.points, setting.queries, setting.points.shape[1]
    network = Network(d, 1, setting.n_lists)
    epochs = train(network, inputs(points), setting.list_of)
    row = {"layer1": places(outputs(network, inputs(queries)), setting.label, 1), "epochs": epochs, "layer2": [], "features": []}
    # Two lists that many queries fall into.
    for chosen in np.argsort(np.bincount(setting.label, minlength=setting.n_lists))[::-1][:2]:
        members, asked = points[setting.list_of == chosen], queries[setting.label == chosen]
        near = members @ members.T
        np.fill_diagonal(near, -np.inf)
        centre, truth = members.mean(0), (asked @ members.T).argmax(1)
        network = Network(d, 2, len(members))
        own, theirs = (outputs(network.features, inputs(rows, centre)) for rows in (members, asked))
        row["features"].append(places(2 * theirs @ own.T - (own**2).sum(1), truth, PLACES))
        train(network, inputs(members, centre), near.argmax(1))
        row["layer2"].append(places(outputs(network, inputs(asked, centre)), truth, PLACES))
    return row


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", type=Path)
    parser.add_argument("query", type=Path)
    parser.add_argument("--rows", type=Path, default="learned_routing.jsonl", help="lines of what was measured")
    parser.add_argument("--settings", nargs="*", default=SETTINGS, help="as 10x20000; all six if not given")
    parser.add_argument("--published", action="store_true", help="train the paper's own networks instead, by torch")
    parser.add_argument("--nearfield", default="target/release/nearfield")
    args = parser.parse_args()
    measured = {}
    if args.rows.exists():
        measured = {(line["setting"], line["published"]): line for line in map(json.loads, args.rows.open())}
    with tempfile.TemporaryDirectory() as folder:
        for setting in args.settings:
            if (setting, args.published) in measured:
                continue
            since = time.time()
            n_lists, n = map(int, setting.split("x"))
            given = Setting(n, n_lists, args, Path(folder))
            line = {"setting": setting, "published": args.published, **(published(given) if args.published else given.measure())}
            measured[setting, args.published] = line
            with args.rows.open("a") as file:
                print(json.dumps(line), file=file)
            print(f"{setting}: {time.time() - since:.0f} s", file=sys.stderr, flush=True)
    heads = [setting for setting in SETTINGS if (setting, False) in measured]
    rows = [measured[setting, False] for setting in heads]
    theirs = [measured.get((setting, True)) for setting in heads]

    def table(title, lines):
        print(f"\n### {title}\n\n| | {' | '.join(heads)} |\n|{'---|' * (len(heads) + 1)}")
        for name, cells in lines:
            print(f"| {name} | {' | '.join(cells)} |")

    def of(name, key, form):
        return [form.format(row[name][key]) if key in row.get(name, ()) else "" for row in rows]

    def paper(text):
        return (f"the paper: {text}", [""] * len(heads))

    named = (("pipeline", PIPELINE), ("neighbours", NEIGHBOURS), ("reduced", REDUCED))
    named = [(name, "`" + spec.format("<L>") + "`") for name, spec in named]
    scann = [(n_probe, f"`{SCANN.format('<L>')}`, {n_probe} list{'s' * (n_probe > 1)}") for n_probe in (1, 5)]
    table(
        "Mean distance between what is found and the true nearest (table 1)",
        [(spec, of(name, "distance", "{:.3f}")) for name, spec in named]
        + [(title, of(f"scann{n_probe}", "distance", "{:.3f}")) for n_probe, title in scann]
        + [("at random", ["{:.3f}".format(row["random"]) for row in rows])],
    )
    layer1 = [paper("0.87–0.99")]
    layer2 = [paper("0.76 or more, in two settings 0.02–0.05")]
    if any(theirs):
        found = lambda of: ["{:.3f}".format(of(row)) if row else "" for row in theirs]
        layer1.append(("the paper's network, trained here", found(lambda row: row["layer1"])))
        layer2.append(("the paper's network, trained here", found(lambda row: np.mean(row["layer2"]))))
        layer2.append(("the same with points' features as rows, not trained", found(lambda row: np.mean(row["features"]))))
    table(
        "Layer 1: the cluster by the nearest centroid is chosen (table 2)",
        layer1 + [(spec, of(name, "layer1", "{:.3f}")) for name, spec in named],
    )
    table("Layer 1: the cluster chosen holds the nearest point", [(spec, of(name, "holds", "{:.3f}")) for name, spec in named])
    table(
        f"Layer 2: the nearest point of the cluster is among the first {PLACES} (table 3)",
        layer2 + [(spec, of(name, "layer2", "{:.3f}")) for name, spec in named],
    )
    table(
        "Microseconds a query, alone on one core (table 4)",
        [paper("70,000–95,000")]
        + [(spec, of(name, "time", "{:,.0f}")) for name, spec in named]
        + [(spec + ", all networks computed", of(name, "awake", "{:,.0f}")) for name, spec in named]
        + [(title, of(f"scann{n_probe}", "time", "{:,.0f}")) for n_probe, title in scann],
    )
    table("Building, seconds", [(spec, of(name, "build", "{:.0f}")) for name, spec in named])
    table("The file, MB", [(spec, [f"{row[name]['bytes'] / 1e6:.0f}" if name in row else "" for row in rows]) for name, spec in named])


if __name__ == "__main__":
    main()
