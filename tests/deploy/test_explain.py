"""`serve --explain`: every limit with its value, and whether the job says it."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

from muster.deploy.explain import explain
from muster.deploy.listen import Listen
from muster.net.settings import Deploy
from worlds.deployed import job_of


def test_it_says_what_would_be_done_and_leaves_nothing(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    job = job_of(
        rounds=7,
        compress="half",
        algorithm={"name": "fedbuff", "pace": {"size": 2, "concurrency": 3}},
        deploy={"lease_secs": 10},
    )
    plan, lines = explain(job, Listen(port=0, insecure=True))
    assert (plan.rounds, plan.num_clients, plan.algorithm, plan.out) == (7, 4, "fedbuff", None)
    assert "backend: numpy" in plan.choices
    said = "\n".join(lines)
    assert "pace: buffered, size 2, concurrency 3" in said
    assert "listens on 127.0.0.1:any free port, plaintext" in said
    assert "begins when 4 of 4 clients have joined (deploy.start_with)" in said
    assert "an update travels compressed by half: 1.4 kB;" in said
    assert "heartbeats come every 5 s (half of deploy.lease_secs)" in said
    assert (
        "deploy.lease_secs = 10.0 (default): A client that has not been heard of for so long is lost" in said
    )
    assert "deploy.stall_secs = 1.0 (of the job): A transfer in which nothing has moved" in said
    assert all(f"deploy.{field.name} = " in said for field in fields(Deploy))
    assert list(tmp_path.iterdir()) == []
