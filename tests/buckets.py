"""A bucket on this machine: moto's server, spoken to by a real S3 client."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import fsspec
import numpy as np
import pytest
from moto.server import ThreadedMotoServer
from safetensors.numpy import save

STORED = {"w": np.arange(90_000, dtype=np.float32).reshape(300, 300), "b": np.ones(3, "f4")}
"""In the bucket."""


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """A server of buckets on this machine."""
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The file system of a bucket with one checkpoint."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", server)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret-of-the-bucket")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    system = fsspec.filesystem("s3")
    system.mkdir("models")
    system.pipe_file("models/dir/model.safetensors", save(STORED))
    yield system
    system.rm("models", recursive=True)
