"""Peers of the model host: what one writes with FastAPI and timm, or with LitServe and timm. Neither uses Shoal.

    python benchmarks/_peers.py fastapi|litserve TIMM_MODEL PORT

``POST /predict`` answers a list of numbers. FastAPI's takes the bytes of an image; LitServe's, which reads JSON and
forms, ``{"image": "<base64>"}``.
"""

from __future__ import annotations

import io
import sys

import timm
import torch
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from PIL import Image


class Network:
    """A network of timm with random weights, and its transform."""

    def __init__(self, name: str) -> None:
        self.module = timm.create_model(name, pretrained=False, num_classes=0).eval()
        self.transform = timm.data.create_transform(**timm.data.resolve_data_config(model=self.module))

    def pixels(self, data: bytes) -> torch.Tensor:
        """The image as the network takes it."""
        found: torch.Tensor = self.transform(Image.open(io.BytesIO(data)).convert("RGB"))
        return found

    def embed(self, batch: torch.Tensor) -> list[list[float]]:
        """The embeddings of a batch."""
        with torch.inference_mode():
            found: list[list[float]] = self.module(batch).tolist()
        return found


def plain(name: str, port: int) -> None:
    """One image at a time."""
    import uvicorn

    network = Network(name)
    app = FastAPI()

    async def predict(request: Request) -> JSONResponse:
        return JSONResponse(network.embed(network.pixels(await request.body())[None])[0])

    app.add_route("/predict", predict, methods=["POST"])
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="error")


def batched(name: str, port: int) -> None:
    """Batches of up to 32 images that arrive within 2 ms."""
    from _litserve import serve

    serve(name, port)


if __name__ == "__main__":
    {"fastapi": plain, "litserve": batched}[sys.argv[1]](sys.argv[2], int(sys.argv[3]))
