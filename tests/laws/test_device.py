"""Laws 1, 8 and 11 on a device apart: on the CPU always, and on a GPU where there is one.

On a GPU the tolerance is 1e-4 of the largest coordinate of a round's sum: float32 in another order, with TF32
off, as it is by default.
"""

import numpy as np
import pytest

from muster.core.errors import UserError
from muster.core.state import Limits
from muster.core.tables import TASK, rows
from muster.core.work import Work
from muster.learn.numerics import Numerics
from muster.learn.numpy_learner import NumpyLearner
from muster.models.dense import Logistic
from muster.tasks.classification import Classification
from worlds.rig import NAMES, Rig, plain, small
from worlds.toy import FACTS, toy_data
from worlds.world import ToyWorld

torch = pytest.importorskip("torch")
from muster.learn.device_cohort import DeviceCohort  # noqa: E402
from muster.learn.device_learner import DeviceLearner  # noqa: E402

CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that torch can use on this machine")
devices = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=CUDA)])
engines = pytest.mark.parametrize("engine", ["one by one", "cohort", "recorded"])
BOUND = {"cpu": 1e-5, "cuda": 1e-4}


def made(engine, algorithm, device, work=Work(batch_size=2)):
    local = algorithm.local
    numerics = Numerics("auto", "auto", device=device, convolutions="auto", graphs=engine == "recorded")
    learner = DeviceLearner if engine == "one by one" else DeviceCohort
    return lambda: learner(Logistic(), Classification(), FACTS, local, local.work(work), numerics)


def chunked(rig, engine):
    rig.plane._crew._trainer.chunk = 0 if engine == "one by one" else 12
    return rig


@devices
@engines
@pytest.mark.parametrize("name", NAMES)
def test_law_8_a_device_gives_what_one_by_one_training_in_numpy_gives(name, engine, device):
    algorithm = small(name, cohort=12, concurrency=12)
    tasks = rows(TASK, 12, ticket=range(12), client=range(12), version=0, attempt=0)
    local, totals, reports = algorithm.local, [], []
    if engine == "recorded" and not local.work(Work(batch_size=2)).batch_size:
        with pytest.raises(UserError, match="needs batches of one size"):
            made(engine, algorithm, device)()
        return
    reference = lambda: NumpyLearner(  # noqa: E731
        Logistic(), Classification(), FACTS, local, local.work(Work(batch_size=2))
    )
    for rig in (
        Rig(algorithm, make_learner=reference),
        chunked(Rig(algorithm, make_learner=made(engine, algorithm, device)), engine),
    ):
        crew, sent = rig.plane._crew, {0: rig.plane.moment.snapshots[0]}
        reports.append(crew.train(tasks, np.zeros(12, np.int64), sent, {}, rig.plane._now(tasks))[0])
        spilled = rig.plane._spill.blocks(np.arange(12)) if algorithm.combine.needs_all else []
        whole = [crew.total().total, *(block.reshape(-1) for _, block in spilled)]
        totals.append(np.concatenate(whole).astype(float))
    assert np.abs(totals[1] - totals[0]).max() <= BOUND[device] * np.abs(totals[0]).max()
    for column in ("loss", "loss_sq_mean", "norm", "a_norm", "num_steps", "num_examples", "refused"):
        np.testing.assert_allclose(
            reports[1][column], reports[0][column], rtol=10 * BOUND[device], err_msg=column
        )


@devices
@engines
def test_law_1_one_client_with_all_data_and_one_step_is_central_sgd(engine, device):
    algorithm = plain(small("fedavg", cohort=1, size=1, concurrency=1, workers=1))
    learner = made(engine, algorithm, device, Work(steps=1, batch_size=30))
    rig = chunked(Rig(algorithm, ToyWorld(1), toy_data([30]), learner, limits=Limits(rounds=1)), engine)
    data = rig.data.client(0)
    before = {k: v.copy() for k, v in rig.plane.spec.views(rig.plane.params).items()}
    scores = data.x @ before["dense0.weight"].T + before["dense0.bias"]
    slope = np.exp(scores) / np.exp(scores).sum(1, keepdims=True) - np.eye(3)[data.y]
    after = rig.run().plane.spec.views(rig.plane.params)
    wanted = before["dense0.weight"] - 0.1 * slope.T @ data.x / len(data)
    np.testing.assert_allclose(after["dense0.weight"], wanted, atol=1e-5)
    assert np.abs(after["dense0.weight"] - before["dense0.weight"]).max() > 1e-3


@devices
@engines
def test_law_11_a_run_ends_in_the_same_bits_every_time(engine, device):
    """On one device: which GPU it is may change them."""
    algorithm = small("scaffold")
    learner = made(engine, algorithm, device)
    hashes = {chunked(Rig(algorithm, make_learner=learner), engine).run().hash for _ in range(2)}
    assert len(hashes) == 1
