"""What a server refuses before anything is done."""

from __future__ import annotations

from pathlib import Path

import pytest

from muster.core.errors import UserError
from muster.deploy.listen import Listen
from muster.deploy.server import serve
from worlds.deployed import job_of


def test_a_target_that_nobody_would_see_is_refused(tmp_path: Path) -> None:
    stop = {"rounds": 1, "target": {"metric": "accuracy", "value": 0.5}}
    job = job_of(stop=stop, deploy={"evaluate": False})
    with pytest.raises(UserError, match=r"stop\.target waits for accuracy, but deploy\.evaluate is false"):
        serve(job, tmp_path / "run", Listen(port=0, insecure=True))
    assert not (tmp_path / "run").exists()
