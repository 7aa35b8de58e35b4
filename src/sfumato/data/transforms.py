"""Pictures to network inputs: augmentation in training, one geometry in evaluation, one normalisation in both.

Legend: H, W of the file; S image_size; C channels.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import torch
from PIL import Image

from sfumato.base.errors import BadInput
from sfumato.data.captioned import Captioned

AUGMENTS = ("crop", "shift", "none")
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R 601, as Pillow's "L"
Box = tuple[float, float, float, float]
Distort = Callable[[np.ndarray, np.random.Generator], np.ndarray]  # (S, S, c) of 0..255 -> the same, float32


@dataclass(frozen=True, kw_only=True)
class Preprocess:
    """From a decoded picture to a (C, S, S) float32 tensor. All fields are public; none is fitted to private data.

    Attributes:
        image_size: S, pixels.
        mean, std: per channel, of values in [0, 1]; one number stands for all channels.
        channels: 1 or 3. Grey is repeated to 3; colour becomes luma for 1.
        augment: "crop" (RandomResizedCrop, bicubic), "shift" (up to S // 14 pixels each way, the border repeated;
            cheap, for small pictures) or "none".
        flip: mirror every second picture in training. Only where the caption stays true: never with "left".
        scale: range of the crop's share of the area.
        ratio: range of the crop's width over height.
    """

    image_size: int
    mean: tuple[float, ...] = (0.5,)
    std: tuple[float, ...] = (0.5,)
    channels: int = 3
    augment: str = "crop"
    flip: bool = False
    scale: tuple[float, float] = (0.2, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)

    def __post_init__(self) -> None:
        if self.image_size < 1:
            raise BadInput(f"image_size must be >= 1, got {self.image_size}.")
        if self.channels not in (1, 3):
            raise BadInput(f"channels must be 1 or 3, got {self.channels}.")
        if self.augment not in AUGMENTS:
            raise BadInput(f"augment must be one of {', '.join(AUGMENTS)}, got '{self.augment}'.")
        for name in ("mean", "std"):
            if len(getattr(self, name)) not in (1, self.channels):
                raise BadInput(f"{name} must have 1 or {self.channels} numbers, got {len(getattr(self, name))}.")
        if min(self.std) <= 0:
            raise BadInput(f"std must be positive, got {self.std}.")
        if not 0 < self.scale[0] <= self.scale[1] <= 1 or not 0 < self.ratio[0] <= self.ratio[1]:
            raise BadInput(f"scale must lie in (0, 1] and ratio above 0, low first; got {self.scale}, {self.ratio}.")

    @classmethod
    def suited(cls, captioned: Captioned, image_size: int, **settings: Any) -> "Preprocess":
        """Return a Preprocess with the augmentation and flip that the set declares safe; `settings` override."""
        declared = {"augment": captioned.augment, "flip": captioned.flip}
        return cls(image_size=image_size, **{**declared, **settings})

    def train(self, image: np.ndarray, rng: np.random.Generator, distort: Distort | None = None) -> torch.Tensor:
        """Return an augmented (C, S, S) float32 tensor; every random number comes from `rng`.

        Args:
            image: (H, W, 1) or (H, W, 3), uint8, or float32 in [0, 255].
            rng: the row's own generator.
            distort: what is done to the resized picture before it is normalised, such as `Jitter`.
        """
        if self.augment == "crop":
            pixels = self._resized(image, _random_box(image.shape[1], image.shape[0], self.scale, self.ratio, rng))
        else:
            pixels = self._resized(image, _centre_box(image.shape[1], image.shape[0]))
            if self.augment == "shift":
                pixels = _shifted(pixels, self.image_size // 14, rng)
        if self.flip and rng.random() < 0.5:
            pixels = pixels[:, ::-1]
        if distort is not None:
            pixels = distort(pixels, rng)
        return self._normalised(pixels)

    def evaluate(self, image: np.ndarray) -> torch.Tensor:
        """Return the (C, S, S) float32 tensor of the largest centred square, resized; no randomness."""
        return self._normalised(self._resized(image, _centre_box(image.shape[1], image.shape[0])))

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Preprocess":
        """Return the Preprocess of `to_dict`. Raises BadInput for a field that there is not."""
        unknown = sorted(set(values) - {field.name for field in fields(cls)})
        if unknown:
            raise BadInput(f"preprocess has no field {', '.join(unknown)}.")
        settings: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
        }
        return cls(**settings)

    def _resized(self, image: np.ndarray, box: Box) -> np.ndarray:
        size = self.image_size
        if image.ndim != 3 or image.shape[2] not in (1, 3) or image.dtype not in (np.uint8, np.float32):
            raise BadInput(f"a picture must be (H, W, 1 or 3) uint8 or float32, got {image.shape} {image.dtype}.")
        if image.shape[:2] == (size, size) and box == (0.0, 0.0, float(size), float(size)):
            return image
        # bicubic with antialiasing, straight from the box: one pass, and a float picture is never rounded
        planes = [image] if image.dtype == np.uint8 and image.shape[2] == 3 else list(np.moveaxis(image, 2, 0))
        resized = [
            np.asarray(Image.fromarray(np.ascontiguousarray(plane)).resize((size, size), Image.Resampling.BICUBIC, box))
            for plane in planes
        ]
        pixels = resized[0] if resized[0].ndim == 3 else np.stack(resized, axis=2)
        return np.clip(pixels, 0, 255) if pixels.dtype == np.float32 else pixels  # bicubic overshoots at edges

    def _normalised(self, pixels: np.ndarray) -> torch.Tensor:
        values = pixels.astype(np.float32)
        if values.shape[2] == 3 and self.channels == 1:
            values = (values @ _LUMA)[:, :, None]
        mean, std = (np.asarray(number, np.float32) for number in (self.mean, self.std))
        if values.shape[2] == 1 and self.channels == 3:
            values = np.broadcast_to(values, (*values.shape[:2], 3))
        values = values * (np.float32(1 / 255) / std) - mean / std
        return torch.from_numpy(np.ascontiguousarray(values.transpose(2, 0, 1), np.float32))


def _centre_box(width: int, height: int) -> Box:
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side


def _random_box(
    width: int, height: int, scale: tuple[float, float], ratio: tuple[float, float], rng: np.random.Generator
) -> Box:
    """Return a random crop: area uniform in `scale`, ratio log-uniform; after ten misses the largest that fits.

    Source: Szegedy et al. 2015, "Going deeper with convolutions", section 6.
    """
    for _ in range(10):
        draw = rng.random(4)
        area = width * height * (scale[0] + (scale[1] - scale[0]) * draw[0])
        aspect = math.exp(math.log(ratio[0]) + (math.log(ratio[1]) - math.log(ratio[0])) * draw[1])
        w, h = math.sqrt(area * aspect), math.sqrt(area / aspect)
        if w <= width and h <= height:
            left, top = float(draw[2] * (width - w)), float(draw[3] * (height - h))
            return left, top, min(left + w, float(width)), min(top + h, float(height))
    whole = min(max(width / height, ratio[0]), ratio[1])
    w, h = min(float(width), height * whole), min(float(height), width / whole)
    left, top = (width - w) / 2, (height - h) / 2
    return left, top, left + w, top + h


def _shifted(pixels: np.ndarray, most: int, rng: np.random.Generator) -> np.ndarray:
    height, width = pixels.shape[:2]
    down, right = (int(step) for step in rng.integers(-most, most + 1, 2))
    wide = np.pad(pixels, ((most, most), (most, most), (0, 0)), mode="edge")
    return wide[most - down : most - down + height, most - right : most - right + width]
