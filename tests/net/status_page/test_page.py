"""The page's text, and what may not get into it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest

from muster.core.record import Record
from muster.net import web
from muster.net.status_page.page import fragment
from muster.net.status_page.routes import routes
from muster.net.watch import Watch, write_live
from muster.track.folder import RunFolder
from muster.track.sink import RunPlan
from muster.track.summary import Tally

NASTY = "<script>alert('x')</script>"


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    made = RunFolder.create(tmp_path / "run", "")
    plan = RunPlan(f"demo{NASTY}", NASTY, NASTY, NASTY, 5, 10, 40, rounds=9, target_metric="accuracy")
    made.write_plan(plan)
    for version in range(3):
        made.append(Record(version, 1.0, 1.0, 2.0 - version, {"accuracy": version / 4}, num_accepted=2))
    return made


def test_the_run_is_on_the_page(run: RunFolder) -> None:
    write_live(run.path, {"idle": 3, "training": 1}, ["it broke"])
    text = fragment(Watch(run.path).look())
    assert 'id="state">running<' in text and "<h2>Clients</h2>" in text and "of 9" in text
    assert text.count("<polyline") == 2 and "<li>it broke</li>" in text
    assert "<th scope=row>training</th><td>1</td>" in text


def test_nothing_from_files_becomes_markup(run: RunFolder) -> None:
    write_live(run.path, {}, [NASTY])
    run.append(Record(3, 1.0, 1.0, None, {NASTY: 1.0}))
    run.write_summary(Tally().summary("stalled", NASTY, 0, None, 0))
    text = fragment(Watch(run.path).look())
    assert "<script" not in text and text.count("&lt;script&gt;") >= 6
    assert 'class="status bad" id="state">stalled<' in text


def test_a_run_that_has_ended_well_is_finished(run: RunFolder) -> None:
    run.write_summary(Tally().summary("rounds", "3 rounds are done", 0, None, 0))
    assert 'id="state">finished<' in fragment(Watch(run.path).look())


def test_addresses(run: RunFolder) -> None:
    async def talk() -> None:
        app = web.application(routes(Watch(run.path).look), None)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            page = (await client.get("/")).text
            for asset in ("page.css", "status.css", "status.js"):
                assert asset in page and (await client.get(f"/{asset}")).status_code == 200
            assert "http" not in page  # nothing comes from elsewhere
            assert (await client.get("/status.json")).json()["round"] == 2
            assert "muster_round 2.0" in (await client.get("/metrics")).text
            (run.path / "records.jsonl").write_text("rubbish\n")
            for path in ("/fragment", "/status.json", "/metrics"):
                assert (await client.get(path)).status_code == 503

    asyncio.run(talk())
