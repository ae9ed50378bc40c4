"""Works A and B with FedJAX's own FedAvg. Installs: fedjax."""

from __future__ import annotations

from collections.abc import Callable

import fedjax
import jax
import jax.numpy as jnp
from fedjax.algorithms import fed_avg
from workload import Workload, measure


def prepare(name: str, work: Workload) -> Callable[[list[int]], None]:
    """A round of FedJAX's federated_averaging over the clients named."""
    apply, params = MODELS[name](jax.random.PRNGKey(0))

    def loss(params, batch):
        scores = jax.nn.log_softmax(apply(params, batch["x"]))
        return -jnp.mean(jnp.take_along_axis(scores, batch["y"][:, None], 1))

    grad = jax.grad(loss)
    hparams = fedjax.ShuffleRepeatBatchHParams(work.batch_size, num_epochs=1, seed=0)
    algorithm = fed_avg.federated_averaging(
        lambda params, batch, rng: grad(params, batch),
        fedjax.optimizers.sgd(work.lr),
        fedjax.optimizers.sgd(1.0),
        hparams,
    )
    data = [fedjax.ClientDataset({"x": x, "y": y.astype("int32")}) for x, y in work.clients]
    state, rng = algorithm.init(params), jax.random.PRNGKey(1)
    # a batch of a new length is compiled for: all lengths that there are, before anything is timed
    lengths = {len(x) % work.batch_size: i for i, (x, _) in enumerate(work.clients)}
    algorithm.apply(state, [(i, data[i], rng) for i in lengths.values()])

    def train(ids: list[int]) -> None:
        nonlocal state
        state, _ = algorithm.apply(state, [(i, data[i], rng) for i in ids])
        jax.block_until_ready(state.params)

    return train


def dense(rng):
    """64-64-10."""
    keys = jax.random.split(rng)
    params = [_layer(keys[0], 64, 64), _layer(keys[1], 64, 10)]
    return lambda p, x: jax.nn.relu(x @ p[0][0] + p[0][1]) @ p[1][0] + p[1][1], params


def convolutional(rng):
    """The same network as torch_models.model("A"), channels last, as XLA has fast convolutions on a CPU."""
    keys = jax.random.split(rng, 4)
    params = {
        "c1": (jax.random.normal(keys[0], (5, 5, 1, 32)) * 0.2, jnp.zeros(32)),
        "c2": (jax.random.normal(keys[1], (5, 5, 32, 64)) * 0.035, jnp.zeros(64)),
        "d1": _layer(keys[2], 64 * 49, 512),
        "d2": _layer(keys[3], 512, 62),
    }

    def stage(x, layer):
        order = ("NHWC", "HWIO", "NHWC")
        x = jax.lax.conv_general_dilated(x, layer[0], (1, 1), "SAME", dimension_numbers=order) + layer[1]
        whole = (1, 2, 2, 1)
        return jax.lax.reduce_window(jax.nn.relu(x), -jnp.inf, jax.lax.max, whole, whole, "VALID")

    def apply(p, x):
        x = x.reshape(-1, 28, 28, 1)  # from one channel first
        x = stage(stage(x, p["c1"]), p["c2"]).reshape(len(x), -1)
        return jax.nn.relu(x @ p["d1"][0] + p["d1"][1]) @ p["d2"][0] + p["d2"][1]

    return apply, params


def _layer(rng, rows: int, columns: int):
    return jax.random.normal(rng, (rows, columns)) / rows**0.5, jnp.zeros(columns)


MODELS = {"A": convolutional, "B": dense}

if __name__ == "__main__":
    measure("fedjax", prepare)
