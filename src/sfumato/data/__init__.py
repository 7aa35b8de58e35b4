"""Data: captioned pictures from anywhere, decoded, transformed and split by owner. The door to PIL and `datasets`."""

from sfumato.data.captioned import Captioned, Rows
from sfumato.data.decode import Decoder
from sfumato.data.folder import image_folder
from sfumato.data.grammar import canonical, hard_negatives, parse_caption, questions, shapes_vocabulary
from sfumato.data.hub import hugging_face
from sfumato.data.idx import fashion_mnist, mnist
from sfumato.data.load import Options, load
from sfumato.data.pairs import PairRows
from sfumato.data.shapes import shapes
from sfumato.data.show import light_up, png_base64
from sfumato.data.sidecar import picture_files
from sfumato.data.split import check_disjoint, holdout
from sfumato.data.table import Columns
from sfumato.data.transforms import Preprocess

__all__ = [
    "Captioned",
    "Columns",
    "Decoder",
    "Options",
    "PairRows",
    "Preprocess",
    "Rows",
    "canonical",
    "check_disjoint",
    "fashion_mnist",
    "hard_negatives",
    "holdout",
    "hugging_face",
    "image_folder",
    "light_up",
    "load",
    "mnist",
    "parse_caption",
    "picture_files",
    "png_base64",
    "questions",
    "shapes",
    "shapes_vocabulary",
]
