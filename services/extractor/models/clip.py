"""Networks of OpenCLIP: two towers, one for images and one for texts, with embeddings in the same space.

References
----------
Radford et al., *Learning Transferable Visual Models From Natural Language Supervision*, arXiv 2103.00020.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import open_clip
from open_clip.tokenizer import SimpleTokenizer
from shoal.errors import InvalidRequest
from torch import Tensor, nn

Tokenise = Callable[[Sequence[str]], Tensor]

LONGEST_WORD = 1_000
"""Bytes of a word that count. OpenCLIP's time for a word grows with its square, and most models take 77 tokens."""
KNOWN_WORDS = 50_000
"""Words whose tokens are kept; OpenCLIP would keep all, for ever."""


def build(name: str, size: int | None = None) -> nn.Module:
    """The network called `name`, randomly initialised, whose forward pass takes images alone.

    Its tensors have the names that published files have. The text tower stays at its method ``encode_text``.

    Parameters
    ----------
    size
        Side of the input, pixels; None for the network's own.

    Raises
    ------
    InvalidRequest
        The network takes another input size only.
    """
    own = open_clip.get_model_config(name)["vision_cfg"]["image_size"]
    if size not in (None, own):
        raise InvalidRequest(f"{name!r} takes only images of {own} pixels, not {size}: omit `transform.size`.")
    with _without_warning():
        network: nn.Module = open_clip.create_model(name, device="cpu")
    kind = type(network)
    # A class, not a method of this one network, so that engines may copy it.
    network.__class__ = type(kind.__name__, (kind,), {"forward": kind.encode_image})
    return network


def tokeniser(name: str) -> Tokenise:
    """Turns texts into (n, context length) int64, cut off where a text is longer. For one thread at a time."""
    found = open_clip.get_tokenizer(name)
    if isinstance(found, SimpleTokenizer) and found.reduction_fn is None:
        found.encode = _Encoder(found)
    tokenise: Tokenise = found
    return tokenise


class _Encoder:
    """What ``SimpleTokenizer.encode`` does, up to the last token that counts.

    Parameters
    ----------
    tokenizer
        OpenCLIP's.
    """

    def __init__(self, tokenizer: SimpleTokenizer) -> None:
        self._of = tokenizer
        self._marks = dict(tokenizer.cache)

    def __call__(self, text: str) -> list[int]:
        """The tokens of a text."""
        of, tokens = self._of, list[int]()
        if len(of.cache) > KNOWN_WORDS:
            of.cache = dict(self._marks)
        for word in of.pat.finditer(of.clean_fn(text)):
            letters = "".join(of.byte_encoder[byte] for byte in word[0].encode()[:LONGEST_WORD])
            tokens += [of.encoder[token] for token in of.bpe(letters).split(" ")]
            if len(tokens) >= of.context_length:
                break
        return tokens


def embed_texts(network: nn.Module, tokens: Tensor) -> Tensor:
    """Embeddings (n, dim) of texts, tokens (n, context length), of any length but 0."""
    encode: Callable[[Tensor], Tensor] = getattr(network, "encode_text")  # noqa: B009
    return encode(tokens)


@contextmanager
def _without_warning() -> Iterator[None]:
    """Leave out OpenCLIP's warning that the weights are random: ours are loaded after this."""

    def other(record: logging.LogRecord) -> bool:
        return "No pretrained weights" not in record.getMessage()

    root = logging.getLogger()
    root.addFilter(other)
    try:
        yield
    finally:
        root.removeFilter(other)
