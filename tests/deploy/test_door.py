"""How a client gets in: what is missing is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from muster.core.errors import CertificateError, UserError
from muster.deploy.door import Door, open_link


def test_a_client_with_a_token_and_no_authority_is_told_which_file_is_missing(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("secret")
    token.chmod(0o600)
    with pytest.raises(CertificateError, match=r"ca\.crt cannot be read: No such file"):
        open_link(Door("fl.example.org:7433", "me", certs=tmp_path, token_file=token), print)


@pytest.mark.parametrize("address", ["fl.example.org", "7433", ":7433", "fl.example.org:https"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(UserError, match="is no address; write HOST:PORT"):
        open_link(Door(address, "me", insecure=True), print)
