"""The engine `openvino-int8`: weights and activations in 8 bits, with ranges from images of the job itself.

References
----------
NNCF's post-training quantisation, https://github.com/openvinotoolkit/nncf
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from shoal.errors import JobError
from shoal.settings import Settings
from shoal.store import ModelRecord

from extractor.backends.engines.openvino import OpenVinoBackend
from extractor.backends.engines.parts import Sample
from extractor.models.spec import ModelSpec

if TYPE_CHECKING:
    from openvino import Model

CALIBRATION_IMAGES = 128


class Int8Backend(OpenVinoBackend):
    """A network that is quantised when it is loaded.

    Parameters
    ----------
    spec, settings, record
        See `extractor.backends.torch.TorchBackend`.
    sample
        Gives images of the job: the same listing gives the same ones, so that a job is continued in the same numbers.

    Raises
    ------
    JobError
        No image can be read.
    """

    def __init__(self, spec: ModelSpec, settings: Settings, record: ModelRecord, sample: Sample | None) -> None:
        images = sample(CALIBRATION_IMAGES) if sample is not None else np.empty((0, 0, 0, 3), np.uint8)
        if not len(images):
            raise JobError("The engine `openvino-int8` sets its ranges by images of the job, and none could be read.")
        self._images: NDArray[np.uint8] = images
        super().__init__(spec, settings, record, "openvino-int8")

    def quantised(self, model: Model) -> Model:
        """The model in 8 bits."""
        # It reports its use by the package that `import_openvino` keeps out.
        nncf = import_module("nncf")
        part = model.inputs[0].partial_shape[0].get_length()
        whole = len(self._images) // part * part
        images = self._images[:whole] if whole else np.resize(self._images, (part, *self._images.shape[1:]))
        parts = [images[at : at + part] for at in range(0, len(images), part)]
        return nncf.quantize(model, nncf.Dataset(parts), subset_size=len(parts))
