"""The page in headless Chromium, as a viewer sees it. Skipped, and says so, where there is no Chromium."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from muster.core.record import Record
from muster.net.watch import write_live
from muster.track.folder import RunFolder

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))),
    None,
)

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt-get install chromium")


def browsed(url: str, profile: Path) -> tuple[str, str]:
    """The page's DOM after 5 s of the browser's virtual time, and what it logged."""
    assert CHROMIUM is not None
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    command += [f"--user-data-dir={profile}", "--enable-logging=stderr", "--virtual-time-budget=5000"]
    done = subprocess.run(
        [*command, "--dump-dom", url], capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout, "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)


@pytest.fixture
def page(tmp_path: Path):  # type: ignore[no-untyped-def]
    """A run, and the page's address with its token, from the command as a user starts it."""
    run = RunFolder.create(tmp_path / "run", "")
    for version in range(5):
        run.append(Record(version, 1.0, 1.0, 2.0, {"accuracy": version / 8}, num_accepted=2))
    write_live(run.path, {"idle": 4, "training": 3}, ["<b>client 7</b> was lost"])
    command = [sys.executable, "-m", "muster", "status", str(run.path), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            yield server.stdout.readline().split()[-1]
        finally:
            server.terminate()


def test_a_viewer_sees_the_run_and_a_stranger_does_not(page: str, tmp_path: Path) -> None:
    dom, logged = browsed(page, tmp_path / "viewer")
    assert "<title>run · Muster</title>" in dom
    assert re.search(r'id="state">running<', dom) and 'aria-busy="false"' in dom
    assert len(re.findall("<polyline", dom)) == 2
    assert re.search(r"training</th><td>3</td>", dom)
    assert "&lt;b&gt;client 7&lt;/b&gt; was lost" in dom
    assert logged == ""  # no script error, and nothing that the content policy forbids
    dom, _ = browsed(page.partition("?")[0], tmp_path / "stranger")
    assert "client 7" not in dom and "give the token" in dom
