"""A client with a training loop of its own in NumPy: `python numpy_loop.py HOST:PORT NAME DATA.npz`."""

import sys

import numpy as np

import muster


def train(model, x, y, steps=50, lr=0.5):
    """Softmax regression by gradient descent on all examples at once."""
    weight, bias = model["dense0.weight"], model["dense0.bias"]
    for _ in range(steps):
        scores = x @ weight.T + bias
        error = np.exp(scores - scores.max(axis=1, keepdims=True))
        error /= error.sum(axis=1, keepdims=True)
        error[np.arange(len(y)), y] -= 1
        weight -= lr * error.T @ x / len(y)
        bias -= lr * error.mean(axis=0)
    return model


def main(address, name, path):
    data = np.load(path)
    y = data["y"]
    x = (data["x"].reshape(len(y), -1) - 0.3058) / 0.3764  # as the job's data set has it
    for task in muster.client(address, name, num_examples=len(y), insecure=True):
        task.submit(train(task.model, x, y))


if __name__ == "__main__":
    main(*sys.argv[1:])
