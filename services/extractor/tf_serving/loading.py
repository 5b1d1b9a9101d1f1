"""One place that imports TensorFlow: quietly, and with a sentence when it is not installed."""

from __future__ import annotations

import os
import sys
import tempfile
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


def tensorflow() -> Any:
    """The module ``tensorflow``.

    Raises
    ------
    ImportError
        It is not installed.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            import tensorflow as tf
        except ImportError as error:
            raise ImportError("TensorFlow is not installed: install `shoal[tf]`.") from error
    tf.get_logger().setLevel("ERROR")
    return tf


def quietly(do: Callable[[], T]) -> T:
    """Call `do` with standard error held back: its libraries greet there before their own switches apply.

    What they wrote appears when it fails.
    """
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            result = do()
        except BaseException:
            os.dup2(kept, 2)
            held.seek(0)
            sys.stderr.write(held.read().decode(errors="replace"))
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)
    return result
