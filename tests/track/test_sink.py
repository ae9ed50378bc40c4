import json
from pathlib import Path

from muster.track.sink import RunPlan


def test_a_plan_survives_json():
    plan = RunPlan(
        *("digits", "fedavg", "digits", "mlp", 100, 4810, 19240), rounds=30, target_metric="accuracy",
        target_value=0.9, out=Path("runs/digits-1"), choices=("backend: torch",),
    )  # fmt: skip
    assert RunPlan.from_json({**json.loads(json.dumps(plan.to_json())), "later": 1}) == plan
    assert plan.target == ("accuracy", 0.9)
    assert RunPlan("a", "b", "c", "d", 1, 2, 3).target is None
