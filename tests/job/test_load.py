"""Reading a job file: what it may say, and which job it then is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muster.algorithms.fedavg import SGD, Sync, Uniform, fedavg
from muster.algorithms.fedbuff import Buffered, fedbuff
from muster.algorithms.fedyogi import Yogi, fedyogi
from muster.core.errors import FieldError, JobError
from muster.core.work import Work
from muster.data.digits import Digits
from muster.data.partition import Dirichlet, Iid
from muster.devices.always_on import AlwaysOn
from muster.devices.mobile import Mobile
from muster.job import (
    Engine,
    Job,
    Stop,
    Target,
    Track,
    check_population,
    dump_job,
    job_from_dict,
    job_to_dict,
    load_job,
    num_clients,
)
from muster.learn.client import OwnClient
from muster.models.dense import MLP, Logistic
from muster.models.own import OwnModel
from muster.tasks.classification import Classification

OWN = """
from dataclasses import dataclass, field
import torch
import muster
from muster.algorithms.fedavg import fedavg
from muster.data.digits import Digits
from muster.data.partition import Iid, Partition

class Net(torch.nn.Module):
    def __init__(self, width, depth=2, facts=None):
        super().__init__()

class MyClient(muster.Client):
    def train(self, data, model, conf):
        return model

@dataclass(frozen=True)
class Halved(muster.Server):
    share: float = 0.5
    def __post_init__(self):
        self.check_number("share", above=0, at_most=1)
    def apply(self, params, delta, opt, info):
        return params + self.share * delta, opt

@dataclass(frozen=True)
class Mine(muster.DataSet):
    partition: Partition = field(default_factory=lambda: Iid(num_clients=20))
    def load(self):
        return Digits().load()

def halving():
    return fedavg().but(server=Halved(0.25))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "own.py").write_text(OWN)
    return tmp_path


def written(folder: Path, text: str, name: str = "conf.yml") -> Path:
    (folder / name).write_text(text)
    return folder / name


DEFAULT = Job(
    "conf", Digits(), MLP(), Classification(), fedavg(), Mobile(), Work(), Engine(), Stop(), 0, Track()
)


def test_an_empty_file_is_the_default_job(folder: Path) -> None:
    assert load_job(written(folder, "")) == DEFAULT
    assert load_job(written(folder, "# nothing\n")) == DEFAULT
    assert load_job(written(folder, "train:\nmodel:\nalgorithm:\n")) == DEFAULT


def test_every_section(folder: Path) -> None:
    text = """
name: all-of-it
data: {name: digits, partition: {name: dirichlet, num_clients: 40, alpha: 1e-1}, test_fraction: 0.25}
model: {name: mlp, hidden: [32, 16]}
task: classification
algorithm: {name: fedyogi, server: {lr: 1}, pace: {cohort: 20, deadline_secs: 600}, local: {lr: 5e-2}}
population: always_on
train: {steps: 7, batch_size: 0}
engine: {backend: numpy, workers: 2}
stop: {rounds: 30, virtual_secs: 1e6, target: {value: 0.9}}
seed: 12
track: {evaluate_every: 5}
"""
    algorithm = fedyogi().but(
        server=Yogi(lr=1.0), pace=Sync(cohort=20, deadline_secs=600.0), local=SGD(lr=0.05)
    )
    assert load_job(written(folder, text)) == Job(
        "all-of-it",
        Digits(Dirichlet(40, 0.1), 0.25),
        MLP((32, 16)),
        Classification(),
        algorithm,
        AlwaysOn(),
        Work(steps=7, batch_size=0),
        Engine("numpy", workers=2),
        Stop(30, 1e6, target=Target(0.9)),
        12,
        Track(5),
    )


def test_a_section_without_a_name_changes_the_algorithms_own_part_and_one_with_a_name_swaps_it() -> None:
    kept = job_from_dict({"algorithm": {"name": "fedbuff", "pace": {"size": 5}}})
    assert kept.algorithm == fedbuff().but(pace=Buffered(size=5))
    swapped = job_from_dict({"algorithm": {"name": "fedbuff", "pace": {"name": "sync", "cohort": 5}}})
    assert swapped.algorithm.pace == Sync(cohort=5)
    assert job_from_dict({"algorithm": {"server": "yogi"}}).algorithm == fedavg().but(server=Yogi())


def test_five_parts_under_a_name_of_ones_own_are_an_algorithm() -> None:
    parts = {"select": "uniform", "pace": "sync", "local": "sgd", "combine": "mean", "server": "yogi"}
    with_names = {section: {"name": name} for section, name in parts.items()}
    job = job_from_dict({"algorithm": {"name": "my_mix", **with_names}})
    assert (job.algorithm.name, job.algorithm.select, job.algorithm.server) == ("my_mix", Uniform(), Yogi())


COHORTS = ("algorithm.pace.cohort=4", "algorithm.pace.cohort=50")


@pytest.mark.parametrize(
    ("text", "pairs"),
    [
        ("algorithm: fedyogi\n", ["algorithm.pace.cohort=50", "algorithm.server.lr=1e-3"]),
        ("", ["algorithm=fedyogi", "algorithm.pace.cohort=50", "algorithm.server={lr: 0.001}"]),
        ("algorithm: {name: fedyogi, pace: {cohort: 3}}\n", [*COHORTS, "algorithm.server.lr=.001"]),
        ("algorithm: {name: fedavg}\n", ["algorithm.name=fedyogi", *COHORTS, "algorithm.server.lr=0.001"]),
    ],
)  # fmt: skip
def test_pairs_are_laid_over_the_file(folder: Path, text: str, pairs: list[str]) -> None:
    wanted = fedyogi().but(pace=Sync(cohort=50), server=Yogi(lr=0.001))
    assert load_job(written(folder, text), pairs).algorithm == wanted


def test_yaml_is_version_1_2_where_it_matters(folder: Path) -> None:
    job = load_job(written(folder, "name: on\nseed: 010\nstop: {virtual_secs: 1e3}\n"))
    assert (job.name, job.seed, job.stop.virtual_secs) == ("on", 10, 1000.0)


def test_the_name_is_the_files_made_fit_for_a_folder(folder: Path) -> None:
    assert load_job(written(folder, "", "my job (2).yml")).name == "my-job-2-"
    assert job_from_dict({}).name == "job"


def test_parts_may_be_given_as_objects_in_a_mapping() -> None:
    job = load_job({"model": Logistic(), "algorithm": fedbuff(), "train": Work(epochs=3)})
    assert (job.model, job.algorithm, job.train) == (Logistic(), fedbuff(), Work(epochs=3))


def test_a_users_own_things_are_found_beside_the_job_file(folder: Path) -> None:
    pytest.importorskip("torch")
    text = """
model: {name: own.py:Net, width: 8}
data: own.py:Mine
algorithm: {name: own.py:halving, local: {name: own.py:MyClient, lr: 0.5}}
"""
    job = load_job(written(folder, text))
    own = folder.resolve() / "own.py"
    assert job.model == OwnModel(f"{own}:Net", {"width": 8})
    assert job.algorithm.local == OwnClient(f"{own}:MyClient", {"lr": 0.5})
    assert job.algorithm.name == f"{own}:halving"
    assert (type(job.algorithm.server).__name__, job.algorithm.server.share) == ("Halved", 0.25)  # type: ignore[attr-defined]
    assert (type(job.data).__name__, job.data.partition) == ("Mine", Iid(20))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("model: {name: own.py:Net}\n", "model lacks width, which Net cannot do without"),
        (
            "model: {name: own.py:Net, width: 8, dept: 3}\n",
            "model.dept is not a known key; did you mean 'depth'? allowed: width, depth, facts",
        ),
        (
            "algorithm: {server: {name: own.py:Halved, share: 2}}\n",
            "algorithm.server.share is 2.0, but must be a finite number above 0 and at most 1",
        ),
        (
            "algorithm: {server: {name: own.py:Halved, share: much}}\n",
            "algorithm.server.share is 'much', but must be a finite number above 0 and at most 1",
        ),
        (
            "algorithm: {local: {name: own.py:MyClient, epochs: 3}}\n",
            "algorithm.local.settings is 'epochs', but ",
        ),
    ],
)
def test_settings_of_a_users_own_things_are_checked(folder: Path, text: str, says: str) -> None:
    pytest.importorskip("torch")
    with pytest.raises(JobError) as error:
        load_job(written(folder, text))
    assert str(error.value).startswith(f"{folder / 'conf.yml'}:1: {says}")


OWN_SELECTS = """
from dataclasses import dataclass
import muster

@dataclass(frozen=True)
class Unwritten(muster.Select):
    pass

@dataclass(frozen=True)
class Happy(muster.Select):
    reads = ("lost",)
    def draw(self, state, k, free, rng):
        return free.sample(k, rng)

@dataclass(frozen=True)
class Text(Happy):
    reads = "loss"

@dataclass(frozen=True)
class Whole(muster.DataSet):
    def load(self):
        return None
"""


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "algorithm: {select: selects.py:Unwritten}\n",
            "algorithm.select: 'selects.py:Unwritten' is a select that lacks draw; write it",
        ),
        (
            "algorithm: {select: selects.py:Happy}\n",
            "algorithm.select reads 'lost', but reports hold only ticket, client, num_examples, num_steps, "
            "staleness, loss, ",
        ),
        (
            "algorithm: {select: selects.py:Text}\n",
            "algorithm.select has reads = 'loss', but must have a tuple of column names",
        ),
        (
            "data: selects.py:Whole\n",
            "data: 'selects.py:Whole' is a data set without a field `partition`; give it one",
        ),
        ("train: {epochs: 9999999999999999999999}\n", "train.epochs is 9999999999999999999999, but must be "),
        ("train: {steps: 9999999999999999999999}\n", "train.steps is 9999999999999999999999, but must be "),
        (
            "algorithm: {pace: {deadline_secs: 1e300}}\n",
            "algorithm.pace.deadline_secs is 1e+300, but must be ",
        ),
        ("stop: {virtual_secs: 1e300}\n", "stop.virtual_secs is 1e+300, but must be "),
    ],
)
def test_parts_and_numbers_that_no_run_can_use_are_refused(folder: Path, text: str, says: str) -> None:
    (folder / "selects.py").write_text(OWN_SELECTS)
    with pytest.raises(JobError) as error:
        load_job(written(folder, text))
    assert str(error.value).startswith(f"{folder / 'conf.yml'}:1: {says}")


def test_more_participants_than_clients_is_the_same_sentence_once_the_data_is_open() -> None:
    job = job_from_dict({"data": {"partition": "natural"}, "algorithm": {"pace": {"cohort": 30}}})
    assert num_clients(job) is None
    check_population(job, 30)
    with pytest.raises(JobError) as error:
        check_population(job, 29)
    assert str(error.value) == (
        "algorithm.pace has up to 30 clients at work at once, but there are only 29; "
        "lower algorithm.pace.cohort or take data with more clients"
    )


def test_backend_without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("muster.job.check.find_spec", lambda name: None)
    assert job_from_dict({"model": "mlp"}).engine.backend == "auto"
    fix = "is not installed: pip install 'muster-fl\\[torch\\]'"
    with pytest.raises(JobError, match=f"^engine.backend is 'torch', but torch {fix}"):
        job_from_dict({"engine": {"backend": "torch"}})
    with pytest.raises(JobError, match=f"^model leaf_cnn needs torch, which {fix}"):
        job_from_dict({"model": "leaf_cnn"})


JOBS: list[dict[str, object]] = [
    {},
    {"algorithm": "fedbuff", "population": "always_on", "data": {"partition": "shards"}},
    {"algorithm": {"name": "fedyogi", "server": {"tau": 1e-9}, "local": {"clip_norm": 10}}, "name": "1e3"},
    {"model": {"name": "convnet2", "dropout": 0.5}, "stop": {"rounds": None, "wall_secs": 1e-7}},
    {"model": {"hidden": []}, "stop": {"target": {"metric": "loss", "value": -0.0}}, "seed": 2**62},
    {"data": {"partition": {"name": "natural", "max_clients": 10}}, "train": {"steps": 3}},
]


@pytest.mark.parametrize("tree", JOBS)
def test_a_dumped_job_loads_equal(folder: Path, tree: dict[str, object]) -> None:
    job = job_from_dict(tree)
    assert job_from_dict(job_to_dict(job)) == job
    assert load_job(written(folder, dump_job(job))) == job


def test_a_dumped_job_with_a_users_own_things_loads_equal_elsewhere(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    text = (
        "model: {name: own.py:Net, width: 8}\ndata: own.py:Mine\n"
        "algorithm: {name: own.py:halving, local: {name: own.py:MyClient, tags: [1, on]}}\n"
    )
    job = load_job(written(folder, text))
    (tmp_path / "elsewhere").mkdir()
    assert load_job(written(tmp_path / "elsewhere", dump_job(job), "job.yml")) == job


rates = st.floats(1e-300, 1e300)


@settings(deadline=None, derandomize=True)
@given(
    name=st.from_regex("[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}", fullmatch=True),
    seed=st.integers(0, 2**63),
    lr=rates,
    secs=st.none() | st.floats(1e-6, 1e9),
    hidden=st.lists(st.integers(1, 999), max_size=3),
    workers=st.just("auto") | st.integers(1, 64),
    target=st.none() | st.floats(allow_nan=False, allow_infinity=False),
)
def test_dump_and_load_are_inverse(
    name: str,
    seed: int,
    lr: float,
    secs: float | None,
    hidden: list[int],
    workers: object,
    target: float | None,
) -> None:
    from muster.job.source import read_text

    tree = {
        "name": name,
        "seed": seed,
        "algorithm": {"local": {"lr": lr}, "pace": {"deadline_secs": secs}},
        "model": {"hidden": hidden},
        "engine": {"workers": workers},
        "stop": {"target": None if target is None else {"value": target}},
    }
    job = job_from_dict(tree)
    assert job.name == name and job.seed == seed and job.algorithm.local == SGD(lr=lr)
    plain, _ = read_text(dump_job(job), "")
    assert job_from_dict(plain) == job


@settings(deadline=None, derandomize=True)
@given(st.text(max_size=200))
def test_no_text_does_anything_but_load_or_be_refused(text: str) -> None:
    from muster.job.source import read_text

    said = refusal(lambda: read_text(text, "conf.yml"))
    assert said is None or (said.startswith("conf.yml") and "\n" not in said)


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9)
trees = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)


@settings(deadline=None, derandomize=True)
@given(
    st.sampled_from(
        [
            "name",
            "data",
            "model",
            "task",
            "algorithm",
            "population",
            "train",
            "engine",
            "stop",
            "seed",
            "track",
        ]
    ),
    trees,
)
def test_any_value_in_any_section_loads_or_is_refused_with_a_sentence(section: str, value: object) -> None:
    said = refusal(lambda: job_from_dict({section: value}))
    assert said is None or (said.startswith(section) and ("must be" in said or "known" in said))


def refusal(make: Callable[[], object]) -> str | None:
    try:
        make()
    except JobError as error:
        return str(error)
    return None


def test_settings_check_themselves() -> None:
    for make in (
        lambda: Stop(rounds=0),
        lambda: Stop(rounds=None),
        lambda: Stop(virtual_secs=float("inf")),
        lambda: Target(value=float("nan")),
        lambda: Engine(workers=True),
        lambda: Engine(backend="tensorflow"),  # type: ignore[arg-type]
        lambda: Track(keep_checkpoints=0),
    ):
        with pytest.raises(FieldError):
            make()
    assert np.isfinite(Stop(rounds=None, virtual_secs=1.0).virtual_secs or np.nan)
