"""Your own local training, in the shape that FL people know. `muster run examples/own_training.yml`."""

import torch
from torch.nn.functional import cross_entropy

import muster


class AdamClient(muster.Client):
    """Trains with Adam instead of SGD. The object is built anew for every task."""

    def train(self, data, model, conf):
        """`data.x` [N, ...] and `data.y` [N] are this client's examples, `model` is its own to change.

        `conf` holds the job's `train` section and whatever stands beside the class's name in the job
        file. Use `self.rng` (or torch, which is seeded from it): then the same seed is the same run.
        """
        optimizer = torch.optim.Adam(model.parameters(), lr=conf.lr)
        losses = []
        for index in conf.work.batches(len(data), self.rng):
            optimizer.zero_grad()
            loss = cross_entropy(model(data.x[index]), data.y[index])
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return model, {"loss": sum(losses) / len(losses)}
