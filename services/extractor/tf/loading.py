"""One place that imports TensorFlow: quietly, and with a sentence when it is not installed."""

from __future__ import annotations

import os
import warnings
from typing import Any


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
