"""A function for `muster join --train`: Muster joins, reads the data, sends and tries again; this trains."""

import numpy as np


def train(params, data, task):
    """One pass of softmax regression by SGD.

    Args:
        params: The model by names of its arrays, to be changed as you like.
        data: The client's examples: `data.x`, `data.y`, as they are stored.
        task: `task.version`, `task.attempt`, `task.stopped` and so on.

    """
    x = (np.asarray(data.x).reshape(len(data), -1) - 0.3058) / 0.3764  # as the job's data set has it
    weight, bias, losses = params["dense0.weight"], params["dense0.bias"], []
    for i in np.random.default_rng(task.attempt).permutation(len(data)):
        chance = np.exp(weight @ x[i] + bias)
        chance /= chance.sum()
        losses.append(-np.log(chance[data.y[i]]))
        chance[data.y[i]] -= 1
        weight -= 0.02 * np.outer(chance, x[i])
        bias -= 0.02 * chance
    return params, {"loss": np.mean(losses), "num_steps": len(data)}
