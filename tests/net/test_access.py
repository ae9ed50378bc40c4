"""Who is calling: certificates, tokens, roles, the audit log and the limit on failing."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from muster.core.errors import AccessError, CertificateError
from muster.net import access, certs
from muster.net.access import Attempts, Audit, Gatekeeper, Peer

WHERE = "ipv4:10.1.2.3:5000"


class Door:
    """A gatekeeper over a folder, and what its audit log says."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.log = folder, folder / "audit.jsonl"
        self.keeper = Gatekeeper(folder, Audit(self.log))

    def by_token(self, token: str, *roles: str) -> Peer:
        return self.keeper.admit({}, [("authorization", f"Bearer {token}")], WHERE, "Join", roles)

    def by_certificate(self, name: str, *roles: str) -> Peer:
        shown = {"x509_pem_cert": [(self.folder / f"{name}.crt").read_bytes()]}
        return self.keeper.admit(shown, [], WHERE, "Join", roles)

    def lines(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()] if self.log.exists() else []


@pytest.fixture
def door(tmp_path: Path) -> Door:
    certs.make_authority(tmp_path, now=datetime.now(UTC) - timedelta(days=10))
    return Door(tmp_path)


def refused(door: Door, token: str, *roles: str) -> AccessError:
    with pytest.raises(AccessError) as caught:
        door.by_token(token, *roles)
    return caught.value


def test_a_certificate_proves_name_and_role(door: Door) -> None:
    certs.issue(door.folder, "v1", role="viewer")
    assert door.by_certificate("v1", "viewer") == Peer("v1", "viewer", "10.1.2.3")


def test_a_token_proves_name_and_role(door: Door) -> None:
    token = access.add_token(door.folder, "c1")
    assert door.by_token(token, "client") == Peer("c1", "client", "10.1.2.3")
    assert token not in (door.folder / "access.json").read_text()


def test_a_wrong_role_is_denied_and_audited(door: Door) -> None:
    token = access.add_token(door.folder, "v1", role="viewer")
    assert refused(door, token, "client").code == "PERMISSION_DENIED"
    (line,) = door.lines()
    assert line["name"] == "v1" and line["what"] == "Join" and line["allowed"] is False
    assert line["why"] == "v1 has the role viewer; Join is for client, admin"
    assert token not in door.log.read_text()


def test_an_admin_may_do_everything(door: Door) -> None:
    token = access.add_token(door.folder, "boss", role="admin")
    assert door.by_token(token, "client").role == "admin"


@pytest.mark.parametrize("token", ["", "nonsense", "x" * 10_000, "é"])
def test_an_unknown_token_is_denied(door: Door, token: str) -> None:
    access.add_token(door.folder, "c1")
    assert refused(door, token, "client").code == "UNAUTHENTICATED"


def test_a_token_ends(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    token = access.add_token(door.folder, "c1", days=1)
    later = time.time() + 86_500
    monkeypatch.setattr(time, "time", lambda: later)
    assert "the token of c1 expired on " in str(refused(door, token, "client"))


def test_what_is_revoked_ends_at_once_and_can_be_issued_anew(door: Door) -> None:
    token = access.add_token(door.folder, "c1")
    certs.issue(door.folder, "c1")
    door.by_token(token, "client")
    door.by_certificate("c1", "client")
    access.revoke(door.folder, "c1")
    assert refused(door, token, "client").code == "UNAUTHENTICATED"
    with pytest.raises(AccessError, match="the certificate of c1 was revoked"):
        door.by_certificate("c1", "client")
    certs.issue(door.folder, "c1", now=datetime.now(UTC) + timedelta(seconds=2))
    door.by_certificate("c1", "client")


def test_revoking_a_stranger_is_refused(door: Door) -> None:
    with pytest.raises(CertificateError, match="nothing to revoke"):
        access.revoke(door.folder, "c9")


def test_an_open_connection_does_not_outlive_its_certificate(door: Door) -> None:
    certs.issue(door.folder, "c1", days=1, now=datetime.now(UTC) - timedelta(days=2))
    with pytest.raises(AccessError, match="the certificate of c1 expired on"):
        door.by_certificate("c1", "client")


def test_insecure_believes_names(tmp_path: Path) -> None:
    keeper = Gatekeeper(None, Audit(tmp_path / "audit.jsonl"))
    peer = keeper.admit({}, [("name", "c1")], "ipv6:[::1]:5000", "Join", ["client"])
    assert peer == Peer("c1", "admin", "::1")


def test_after_ten_failures_a_minute_no_more_are_logged_and_good_ones_pass(door: Door) -> None:
    now = [0.0]
    door.keeper = Gatekeeper(door.folder, Audit(door.log), Attempts(lambda: now[0]))
    token = access.add_token(door.folder, "c1")
    codes = [refused(door, "wrong", "client").code for _ in range(12)]
    assert codes == ["UNAUTHENTICATED"] * 10 + ["RESOURCE_EXHAUSTED"] * 2
    assert len(door.lines()) == 10
    assert door.by_token(token, "client").name == "c1"
    now[0] = 60.0
    assert refused(door, "wrong", "client").code == "UNAUTHENTICATED"


def test_failed_attempts_take_bounded_memory() -> None:
    attempts = Attempts(lambda: 0.0)
    for i in range(access.MAX_ADDRESSES + 100):
        attempts.failed(f"10.0.{i // 256}.{i % 256}")
    assert len(attempts._failed) == access.MAX_ADDRESSES


def test_a_damaged_access_file_is_named(door: Door) -> None:
    place = door.folder / "access.json"
    place.write_text('{"tokens": 3}')
    with pytest.raises(CertificateError, match=r"access\.json is damaged"):
        access.add_token(door.folder, "c1")


def test_while_the_access_file_is_damaged_callers_are_to_try_again_and_the_operator_is_told(
    door: Door,
) -> None:
    """gRPC's UNAVAILABLE: clients that wait go on when it is repaired."""
    token = access.add_token(door.folder, "c1")
    place = door.folder / "access.json"
    good = place.read_text()
    place.write_text('{"tokens": 3}')
    error = refused(door, token, "client")
    assert error.code == "UNAVAILABLE" and "access.json is damaged" in str(error)
    assert str(door.folder) not in str(error)
    assert f"{place} is damaged" in str(door.lines()[-1]["why"])
    place.write_text(good)
    assert door.by_token(token, "client").name == "c1"


def test_the_audit_log_is_for_its_owner_and_survives_a_lost_disk(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    audit = Audit(tmp_path / "audit.jsonl", lambda: datetime(2026, 1, 2, tzinfo=UTC))
    audit.line(Peer("a\nb", "client", "::1"), "Join", allowed=True)
    assert (tmp_path / "audit.jsonl").stat().st_mode & 0o777 == 0o600
    (line,) = (tmp_path / "audit.jsonl").read_text().splitlines()
    assert json.loads(line)["name"] == "a\nb" and json.loads(line)["time"].startswith("2026-01-02T00:00:00")
    lost = Audit(tmp_path / "missing" / "audit.jsonl")
    for _ in range(2):
        lost.line(Peer("a", "client", "::1"), "Join", allowed=True)
    assert capsys.readouterr().err.count("cannot be written") == 1


def test_secrets_are_compared_whole() -> None:
    assert access.same_secret("abc", "abc")
    assert not access.same_secret("abc", "abd") and not access.same_secret("abc", "ab")
