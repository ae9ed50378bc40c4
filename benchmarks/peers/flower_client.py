"""What a client of Flower does in works A and B: a module, so that each worker makes the data once."""

from __future__ import annotations

import os
from functools import cache

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from torch_models import model
from workload import Workload, workload

NAME = os.environ.get("MUSTER_PEER_WORK", "A")


@cache
def prepared() -> tuple[Workload, torch.nn.Module]:
    """The work and a working model, once in each process."""
    torch.set_num_threads(1)
    return workload(NAME), model(NAME)


def client_train(message: Message, context: Context) -> Message:
    """One client's epoch."""
    work, net = prepared()
    net.load_state_dict(message.content["arrays"].to_torch_state_dict())
    x, y = work.clients[int(context.node_config["partition-id"])]
    x, y = torch.from_numpy(x), torch.from_numpy(y)
    optimizer, criterion = torch.optim.SGD(net.parameters(), work.lr), torch.nn.CrossEntropyLoss()
    for index in torch.randperm(len(x)).split(work.batch_size):
        optimizer.zero_grad()
        criterion(net(x[index]), y[index]).backward()
        optimizer.step()
    told = MetricRecord({"num-examples": len(x)})
    content = RecordDict({"arrays": ArrayRecord(net.state_dict()), "metrics": told})
    return Message(content=content, reply_to=message)
