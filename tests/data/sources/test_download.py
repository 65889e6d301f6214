"""Downloads without a network: one message, soon, with what to do by hand."""

import socket
import threading

import numpy as np
import pytest

from edp_lightning.cli import main
from edp_lightning.data.sources import download as module
from edp_lightning.data.sources.opening import obtain
from edp_lightning.errors import UserError
from tests.conftest import make_buffer, make_set

NAME = "D4RL/pen/human-v2"
BY_HAND = "huggingface-cli download farama-minari/D4RL --repo-type dataset --include 'pen/human-v2/"


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "HF_HUB_OFFLINE", "MINARI_REMOTE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")  # refuses connections: nothing leaves this machine


def test_no_network_gives_the_command_for_another_machine(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["fit", f"--data.dataset={NAME}", "--data.download=true"])
    assert stop.value.code == 1
    err = capsys.readouterr().err
    message = err[err.index("error: ") :]
    assert "no network (127.0.0.1 does not answer" in message
    assert BY_HAND in message
    assert "Traceback" not in err


def test_a_host_that_never_answers_is_given_up(monkeypatch):
    monkeypatch.setattr(module, "PATIENCE", 0.05)
    forever = threading.Event()

    def hang(*args, **kwargs):
        forever.wait()
        raise OSError

    monkeypatch.setattr(socket, "create_connection", hang)
    with pytest.raises(UserError, match="no network"):
        obtain(NAME, allow_download=True)
    forever.set()


def test_offline_mode_is_respected(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(socket, "create_connection", lambda *args, **kwargs: pytest.fail("the network was used"))
    with pytest.raises(UserError, match="HF_HUB_OFFLINE forbids it"):
        obtain(NAME, allow_download=True)


def test_nothing_is_downloaded_without_being_asked(monkeypatch):
    monkeypatch.setattr(socket, "create_connection", lambda *args, **kwargs: pytest.fail("the network was used"))
    with pytest.raises(UserError, match=r"data\.download: true"):
        obtain(NAME, allow_download=False)


def test_the_proxy_is_what_must_answer(monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.2:1")
    with pytest.raises(UserError, match=r"127\.0\.0\.2 does not answer"):
        obtain(NAME, allow_download=True)


@pytest.mark.parametrize(
    ("error", "message"),
    [(ImportError("huggingface_hub"), r"pip install 'minari\[hf\]'"), (ValueError("gone"), "failed .gone.")],
)
def test_failed_downloads_keep_the_cause(error, message, monkeypatch):
    import minari

    def fail(dataset_id):
        raise error

    monkeypatch.setattr(module, "_reachable", lambda host, port: True)
    monkeypatch.setattr(minari, "download_dataset", fail)
    with pytest.raises(UserError, match=message):
        obtain(NAME, allow_download=True)


def test_a_downloaded_set_is_used(monkeypatch):
    import minari

    monkeypatch.setattr(module, "_reachable", lambda host, port: True)
    buffer = make_buffer(0, np.zeros((2, 2)), [[0.0]], [0.0])
    monkeypatch.setattr(minari, "download_dataset", lambda dataset_id: make_set(dataset_id, [buffer]))
    obtain("tests/remote-v0", allow_download=True)
    main(["data", "show", "tests/remote-v0"])
