"""A client's device: found out before it joins, and told by the name of its option."""

from __future__ import annotations

import pytest

from muster.core.errors import UserError
from muster.deploy.door import Door
from muster.deploy.worker import check_device, chosen, join
from muster.models.dense import MLP

torch = pytest.importorskip("torch")


def test_without_a_gpu_a_client_is_refused_before_it_calls_anybody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("muster.deploy.worker.open_link", lambda *_: pytest.fail("it has called the server"))
    with pytest.raises(UserError) as caught:
        join(Door("localhost:1", "me", insecure=True), device="cuda")
    said = str(caught.value)
    assert said.startswith("--device is cuda, but torch") and "use --device cpu" in said
    assert "engine" not in said


def test_what_is_no_device_is_refused_with_what_is() -> None:
    with pytest.raises(UserError, match="--device is 'gpu', but must be cpu, cuda, cuda:N"):
        check_device("gpu")


def test_a_job_that_does_not_train_in_torch_has_no_use_for_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(
        UserError, match=r"^--device is cuda, but engine\.backend is numpy,.* leave --device out$"
    ):
        chosen("cuda", "numpy", MLP())
    assert chosen("auto", "numpy", MLP()) == chosen("cpu", "numpy", MLP()) == "cpu"
