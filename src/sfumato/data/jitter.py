"""Distortions of colour and sharpness for views: torchvision's arithmetic, numbers of the row's own generator.

Legend: S pixels of a side, c channels of the picture (1 or 3).
"""

import functools
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sfumato.base.errors import BadInput

_BLURRED_FROM = 64  # pixels of a side: blur takes from smaller pictures what is to be learned


@dataclass(frozen=True, kw_only=True)
class Jitter:
    """Random colour distortion, greyscale and blur, as in SimCLR. All fields are public.

    Attributes:
        probability: of the colour distortion as a whole.
        brightness, contrast, saturation: x: the factor is uniform on [max(0, 1 - x), 1 + x].
        hue: x: the shift is uniform on [-x, x] of the colour circle; at most 0.5.
        grey: probability of a picture without colour.
        blur: probability of a Gaussian blur, with a kernel of a tenth of the side.
        sigma: range of the blur's standard deviation, pixels.

    Source: Chen et al. 2020, "A simple framework for contrastive learning of visual representations", appendix A.
    """

    probability: float = 0.8
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.1
    grey: float = 0.2
    blur: float = 0.0
    sigma: tuple[float, float] = (0.1, 2.0)

    def __post_init__(self) -> None:
        for name in ("probability", "grey", "blur"):
            if not 0 <= getattr(self, name) <= 1:
                raise BadInput(f"{name} of Jitter is a probability, got {getattr(self, name)}.")
        for name, most in (("brightness", None), ("contrast", None), ("saturation", None), ("hue", 0.5)):
            value = getattr(self, name)
            if not np.isfinite(value) or value < 0 or (most is not None and value > most):
                limit = ">= 0" if most is None else f"in 0..{most}"
                raise BadInput(f"{name} of Jitter must be {limit}, got {value}.")
        if not 0 < self.sigma[0] <= self.sigma[1] < np.inf:
            raise BadInput(f"sigma of Jitter must be (low, high) with 0 < low <= high, got {self.sigma}.")
        _functional()  # now: a failing import inside a row would count as a row that cannot be read

    @classmethod
    def suited(cls, image_size: int, *, channels: int = 3, captions: bool = False, **settings: Any) -> "Jitter":
        """Return the usual distortion for pictures of this size; `settings` override.

        Without captions: SimCLR's, at full strength and with blur from 64 pixels a side on, at half strength and
        without blur below. With captions only what keeps them true: a caption may name a colour, so brightness and
        contrast alone move, by a fifth. Grey pictures have neither hue nor saturation.

        Args:
            image_size: S, pixels.
            channels: 1 or 3, of what the network sees.
            captions: whether the view goes with a caption.
        """
        strength = 1.0 if image_size >= _BLURRED_FROM else 0.5
        known: dict[str, Any] = {
            "brightness": 0.8 * strength,
            "contrast": 0.8 * strength,
            "saturation": 0.8 * strength,
            "hue": 0.2 * strength,
            "blur": 0.5 if image_size >= _BLURRED_FROM else 0.0,
        }
        if captions:
            known |= {"brightness": 0.2, "contrast": 0.2, "blur": 0.0}
        if captions or channels == 1:
            known |= {"saturation": 0.0, "hue": 0.0, "grey": 0.0}
        return cls(**{**known, **settings})

    @property
    def is_nothing(self) -> bool:
        """Whether every picture comes back as it was."""
        colour = self.probability and (self.brightness or self.contrast or self.saturation or self.hue)
        return not (colour or self.grey or self.blur)

    def __call__(self, pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return the distorted picture, (S, S, c) float32 in [0, 255].

        Args:
            pixels: (S, S, c), uint8, or float32 in [0, 255].
            rng: the row's own generator; nothing else is random.
        """
        picture = torch.from_numpy(np.ascontiguousarray(np.moveaxis(pixels, 2, 0), np.float32)) / 255.0
        if rng.random() < self.probability:
            picture = self._colours(picture, rng)
        if rng.random() < self.grey and len(picture) == 3:
            picture = _functional().rgb_to_grayscale(picture, 3)
        if rng.random() < self.blur:
            kernel = max(3, len(pixels) // 10 | 1)  # odd
            sigma = float(rng.uniform(*self.sigma))
            picture = _functional().gaussian_blur(picture, [kernel, kernel], [sigma, sigma])
        return np.moveaxis((picture * 255.0).numpy(), 0, 2)

    def _colours(self, picture: Tensor, rng: np.random.Generator) -> Tensor:
        """Adjust brightness, contrast, saturation and hue, in an order that is drawn."""
        library = _functional()
        ways = (
            (library.adjust_brightness, self.brightness, 1.0),
            (library.adjust_contrast, self.contrast, 1.0),
            (library.adjust_saturation, self.saturation, 1.0),
            (library.adjust_hue, self.hue, 0.0),
        )
        for place in rng.permutation(len(ways)):
            adjust, most, neutral = ways[place]
            low = max(0.0, neutral - most) if neutral else -most
            value = float(rng.uniform(low, neutral + most))
            if most:
                picture = adjust(picture, value)
        return picture

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}


@functools.cache
def _functional() -> Any:
    from torchvision.transforms.v2 import functional  # seconds of import, for those who distort pictures

    return functional
