"""Whatever a test does here, the key and the signatures of links show nowhere in what was logged."""

import logging

import pytest
from runware_parts import SENTINEL


@pytest.fixture(autouse=True)
def nothing_secret_is_logged(caplog):
    caplog.set_level(logging.DEBUG)
    yield
    for record in caplog.get_records("call"):
        if record.name.startswith("uvicorn"):  # the server is somebody else
            continue
        text = f"{record.getMessage()} {record.args!r} {record.exc_text}"
        assert SENTINEL not in text, record
        assert "5ecret" not in text, record
        assert "signature=" not in text, record
