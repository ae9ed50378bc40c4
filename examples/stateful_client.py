"""A client that remembers, from task to task. `muster run examples/stateful_client.yml`.

What lasts goes through `self.state`: numbers, strings, booleans, None and arrays, by name. It is kept
on disk, one entry a client, only when the server has accepted the update; it survives `muster resume`,
and it does not depend on how many worker processes there are.
"""

import torch
from torch.nn.functional import cross_entropy

import muster


class LastingMomentum(muster.Client):
    """SGD whose momentum goes on where this client's last task left it."""

    def train(self, data, model, conf):
        names = [name for name, _ in model.named_parameters()]
        parameters = list(model.parameters())
        velocity = [
            torch.from_numpy(self.state[name]) if name in self.state else torch.zeros_like(parameter)
            for name, parameter in zip(names, parameters, strict=True)
        ]
        for index in conf.work.batches(len(data), self.rng):
            loss = cross_entropy(model(data.x[index]), data.y[index])
            gradients = torch.autograd.grad(loss, parameters)
            with torch.no_grad():
                for p, g, v in zip(parameters, gradients, velocity, strict=True):
                    v.mul_(conf.momentum).add_(g)
                    p.sub_(conf.lr * v)
        self.state.update(zip(names, velocity, strict=True))
        self.state["num_tasks"] = self.state.get("num_tasks", 0) + 1
        return model
