"""The peer that LitServe serves. Its processes import this module, so that the class must be one of a module."""

from __future__ import annotations

import base64
from importlib import import_module
from typing import Any

import torch
from _peers import Network

ls: Any = import_module("litserve")  # Not among our dependencies.


class Api(ls.LitAPI):  # type: ignore[misc]
    """Decodes in the requests' process, batches in the model's."""

    def __init__(self, name: str) -> None:
        super().__init__(max_batch_size=32, batch_timeout=0.002)
        self._name = name

    def setup(self, device: str) -> None:
        """Load the network."""
        self.network = Network(self._name)

    def decode_request(self, request: dict[str, str]) -> torch.Tensor:
        """The pixels of the image."""
        return self.network.pixels(base64.b64decode(request["image"]))

    def batch(self, inputs: list[torch.Tensor]) -> torch.Tensor:
        """The pixels of several images."""
        return torch.stack(inputs)

    def predict(self, batch: torch.Tensor) -> list[list[float]]:
        """Their embeddings."""
        return self.network.embed(batch if batch.ndim == 4 else batch[None])

    def unbatch(self, output: list[list[float]]) -> list[list[float]]:
        """One an answer."""
        return output

    def encode_response(self, output: list[float]) -> list[float]:
        """As JSON."""
        return output


def serve(name: str, port: int) -> None:
    """Serve until the process is ended."""
    server = ls.LitServer(Api(name), accelerator="cpu")
    server.run(host="127.0.0.1", port=port, generate_client_file=False, log_level="error")
