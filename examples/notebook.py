"""Muster in a notebook: no command line, no run folder. Each `# %%` is a cell.

Run it as a script with `python examples/notebook.py`.
"""

# %% A job from a mapping, as a job file would hold it. What is left out has a default.
import dataclasses

import muster
from muster.algorithms.fedyogi import fedyogi

job = muster.load_job(
    {
        "data": {"name": "digits", "partition": {"name": "dirichlet", "num_clients": 50, "alpha": 0.5}},
        "algorithm": {"name": "fedavg", "local": {"lr": 0.2}},
        "engine": {"backend": "numpy"},
        "stop": {"rounds": 20},
    }
)
print(job.algorithm)

# %% Run it: a record for each version of the model, as it is made.
run = muster.simulate(job)
for record in run:
    if record.version % 5 == 0:
        accuracy = record.metrics["accuracy"]
        print(f"round {record.version}: {record.now_secs:.0f} s on the clients' clock, {accuracy:.3f}")

# %% Afterwards: the summary, and the model as arrays.
print(run.summary.metrics, run.summary.model_sha256)
print({name: array.shape for name, array in run.model.items()})

# %% The same job with another algorithm, compared at equal virtual time.
other = dataclasses.replace(job, algorithm=fedyogi().but(local=job.algorithm.local))
print("fedyogi:", list(muster.simulate(other))[-1].metrics["accuracy"])

# %% Only the clock: who takes part and how long it takes, without training anything.
timed = list(muster.simulate(job, clock_only=True))
print(f"{len(timed) - 1} rounds would take {timed[-1].now_secs:.0f} s")
