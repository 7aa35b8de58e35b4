"""Pictures for people: arrays to PNG, and attention laid over a picture."""

import base64
import io

import numpy as np
from PIL import Image

_MOST = 512  # larger ones are made smaller for a page
_LEAST = 112  # small pictures are enlarged to this many pixels, without smoothing


def png_base64(image: np.ndarray) -> str:
    """Return the PNG of a picture (H, W, 1 or 3), uint8 or float32 in [0, 255], as base64 text."""
    picture = _as_pil(image)
    factor = max(1, -(-_LEAST // max(picture.size)))
    picture = picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def preview(image: np.ndarray) -> np.ndarray:
    """Return a picture (H, W, 1 or 3), uint8 or float32, with at most 512 pixels a side, in its own proportions."""
    if max(image.shape[:2]) <= _MOST:
        return image
    picture = _as_pil(image)
    picture.thumbnail((_MOST, _MOST))
    return np.asarray(picture).reshape(picture.height, picture.width, -1)


def light_up(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Return the picture (224, 224, 3) uint8, dim where `heat` (h, w) is low and warm where it is high."""
    side = 224
    picture = np.asarray(_as_pil(image).convert("RGB").resize((side, side), Image.Resampling.BICUBIC), np.float32)
    low, high = float(heat.min()), float(heat.max())
    scaled = Image.fromarray(((heat - low) / max(high - low, 1e-12)).astype(np.float32))
    warmth = np.asarray(scaled.resize((side, side), Image.Resampling.BICUBIC), np.float32).clip(0, 1)[..., None]
    warm = np.array([255.0, 140.0, 0.0], np.float32)
    return ((0.35 + 0.25 * warmth) * picture + 0.4 * warmth * warm).clip(0, 255).astype(np.uint8)


def _as_pil(image: np.ndarray) -> Image.Image:
    pixels = np.clip(image, 0, 255).astype(np.uint8)
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
