"""Settings of what is taken from media files, as they stand in params.yaml.

Apart from the stages: whoever reads settings need not import decoders.
"""

from typing import Annotated, Literal

from pydantic import Field

from audio_from_video.runtime import params


class FramesParams(params.Section):
    """The section `frames` of params.yaml."""

    fps: float = Field(gt=0, le=60)
    count: int = Field(ge=2, le=256)
    keep: Literal["exact", "all"]
    size_px: int = Field(ge=16, le=1024)
    jpeg_quality: int = Field(ge=50, le=100)


class FlowParams(params.Section):
    """How flow is computed and drawn."""

    pyramid_scale: float = Field(gt=0, lt=1)
    levels: int = Field(ge=1, le=10)
    window_px: int = Field(ge=3, le=101)
    iterations: int = Field(ge=1, le=20)
    polynomial_px: int = Field(ge=3, le=15)
    polynomial_sigma: float = Field(gt=0, le=10)
    full_scale_px: Literal["auto"] | Annotated[float, Field(gt=0, le=1024)]
    jpeg_quality: int = Field(ge=50, le=100)

    def with_scale(self, full_scale_px: float) -> "FlowParams":
        """Return the same parameters with another scale, such as a number in place of `auto`."""
        return self.model_copy(update={"full_scale_px": full_scale_px})


class OpticalFlowParams(FlowParams):
    """The section `optical_flow` of params.yaml: how flow is drawn, and which images are stored."""

    store: Literal["full", "thumbnails"]

    def drawing(self) -> FlowParams:
        """Return how flow is drawn, whatever is stored."""
        return FlowParams(**self.model_dump(exclude={"store"}))


class RepresentativeFramesParams(params.Section):
    """The section `representative_frames` of params.yaml."""

    threshold: float = Field(gt=0, le=10)
    camera: Literal["keep", "subtract"]


class AudioParams(params.Section):
    """The section `audio` of params.yaml."""

    silence_db: float = Field(ge=-120, le=0)
