"""Data: captioned pictures and visual questions from anywhere, decoded, transformed and split by owner.

The door to PIL and `datasets`.
"""

from sfumato.data.ask import asked_vocabulary
from sfumato.data.asked import AskedRows, eight_bit_rgb
from sfumato.data.captioned import Captioned, Question, Rows
from sfumato.data.cifar import cifar10, cifar100
from sfumato.data.decode import Decoder, reduced
from sfumato.data.easy_vqa import easy_vqa
from sfumato.data.emoji import emoji
from sfumato.data.features import FeatureRows
from sfumato.data.folder import image_folder
from sfumato.data.grammar import canonical, hard_negatives, parse_caption, questions, shapes_vocabulary
from sfumato.data.hub import hugging_face
from sfumato.data.idx import fashion_mnist, mnist
from sfumato.data.jitter import Jitter
from sfumato.data.load import Options, has_test_split, load
from sfumato.data.pairs import PairRows, padded
from sfumato.data.shape_questions import shape_questions
from sfumato.data.shapes import shapes
from sfumato.data.show import light_up, png_base64, preview
from sfumato.data.sidecar import picture_files
from sfumato.data.split import check_disjoint, holdout, one_per_record
from sfumato.data.table import Columns
from sfumato.data.transforms import Preprocess
from sfumato.data.views import TwoViews
from sfumato.data.vqa2 import vqa2, vqa2_folder

__all__ = [
    "AskedRows",
    "Captioned",
    "Columns",
    "Decoder",
    "FeatureRows",
    "Jitter",
    "Options",
    "PairRows",
    "Preprocess",
    "Question",
    "Rows",
    "TwoViews",
    "asked_vocabulary",
    "canonical",
    "check_disjoint",
    "cifar10",
    "cifar100",
    "easy_vqa",
    "eight_bit_rgb",
    "emoji",
    "fashion_mnist",
    "hard_negatives",
    "has_test_split",
    "holdout",
    "hugging_face",
    "image_folder",
    "light_up",
    "load",
    "mnist",
    "one_per_record",
    "padded",
    "parse_caption",
    "picture_files",
    "png_base64",
    "preview",
    "questions",
    "reduced",
    "shape_questions",
    "shapes",
    "shapes_vocabulary",
    "vqa2",
    "vqa2_folder",
]
