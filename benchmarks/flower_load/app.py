"""A Flower app that is nothing but rounds of FedAvg, for load_flower.py; runs beside Flower's SuperLink.

Each round's model goes to all nodes, and their replies are collected with Flower's own Grid and averaged by
its own FedAvg. It looks for replies every 50 ms, where `Grid.send_and_receive` waits for three seconds, and
not before `go-N` is there, so that it costs nothing while others are measured. What it has done is in files
of its folder: `started.json`, then `sent-N.json` and `made-N.json` of each round.
"""

import itertools
import json
import os
import time
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

client = ClientApp()
app = ServerApp()


def tell(folder: Path, name: str, **figures: float) -> None:
    """A file that is there only when it is whole."""
    (folder / "written").write_text(json.dumps(figures))
    (folder / "written").rename(folder / f"{name}.json")


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Rounds, until the process is ended."""
    folder, count, size = (context.run_config[name] for name in ("folder", "count", "size"))
    folder, average = Path(str(folder)), FedAvg(weighted_by_key="num-examples")
    tell(folder, "started", pid=os.getpid())
    arrays = ArrayRecord({"model": Array(np.zeros(size, np.float32))})
    while len(nodes := list(grid.get_node_ids())) < count:
        time.sleep(0.1)
    for number in itertools.count():
        began = time.monotonic()
        messages = [Message(RecordDict({"arrays": arrays}), node, "train") for node in nodes]
        waiting = set(grid.push_messages(messages))
        tell(folder, f"sent-{number}", secs=time.monotonic() - began)
        while not (folder / f"go-{number}").exists():
            time.sleep(0.02)
        replies = []
        while waiting:
            time.sleep(0.05)
            came = list(grid.pull_messages(waiting))
            waiting -= {reply.metadata.reply_to_message_id for reply in came}
            replies += came
        averaged, _ = average.aggregate_train(number + 1, replies)
        if averaged is None or any(reply.has_error() for reply in replies):
            raise SystemExit("a reply did not come whole")
        arrays = averaged
        del replies
        tell(folder, f"made-{number}", first=float(arrays["model"].numpy()[0]))
