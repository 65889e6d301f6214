"""Downloads Minari sets, and notices within seconds when there is no network."""

import os
import socket
import threading
from urllib.parse import urlsplit

from edp_lightning.data.sources.minari import missing_message
from edp_lightning.errors import UserError

PATIENCE = 2.0
"""Seconds after which a host counts as unreachable: without network, the libraries themselves take 24 to 89."""


def download(dataset_id: str) -> None:
    """Download a set from the remote that Minari is set to (``MINARI_REMOTE``; Hugging Face by default).

    Raises:
        UserError: If a package or the network is missing, or the download fails; with the manual command.
    """
    import minari

    remote = os.environ.get("MINARI_REMOTE", "hf://farama-minari")
    fix = f"by hand, on a machine with network: {missing_message(dataset_id)}"
    if remote.startswith("hf://") and os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON"):
        raise UserError(f"downloading {dataset_id}: HF_HUB_OFFLINE forbids it; unset it, or {fix}")
    host, port = _host(remote)
    if not _reachable(host, port):
        raise UserError(f"downloading {dataset_id}: no network ({host} does not answer within {PATIENCE:.0f} s); {fix}")
    try:
        minari.download_dataset(dataset_id)
    except ImportError as error:
        raise UserError(f"downloading {dataset_id} needs: pip install 'minari[hf]' ({error})") from error
    except Exception as error:  # network libraries raise many types
        raise UserError(f"downloading {dataset_id} failed ({error}); {fix}") from error


def _host(remote: str) -> tuple[str, int]:
    """Return what has to answer before a download can: the proxy if one is set, else the remote's host."""
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        proxy = urlsplit(os.environ.get(name, ""))
        if proxy.hostname:
            return proxy.hostname, proxy.port or 80
    if remote.startswith("gcp://"):
        return "storage.googleapis.com", 443
    endpoint = urlsplit(os.environ.get("HF_ENDPOINT", "https://huggingface.co"))
    return endpoint.hostname or "huggingface.co", endpoint.port or (80 if endpoint.scheme == "http" else 443)


def _reachable(host: str, port: int) -> bool:
    """Return whether a connection opens in time; in a thread, because looking up a name has no time limit of its own."""
    answered = threading.Event()

    def connect() -> None:
        try:
            with socket.create_connection((host, port), timeout=PATIENCE):
                answered.set()
        except OSError:
            return

    attempt = threading.Thread(target=connect, daemon=True)
    attempt.start()
    attempt.join(PATIENCE)
    return answered.is_set()
