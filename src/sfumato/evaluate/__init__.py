"""Evaluation: what an encoder learned and what a model says, always beside what learned nothing.

Metrics are pure functions of arrays; `run_suite` feeds them. scikit-learn (the extra `eval`) is needed by probes only.
"""

from sfumato.evaluate.accuracy import Accuracy, counted, per_class, wilson
from sfumato.evaluate.attributes import attribute_accuracy, read_caption
from sfumato.evaluate.baselines import hog, raw_pixels
from sfumato.evaluate.bench import subset
from sfumato.evaluate.caption import bleu4, cider, cider_scores, words
from sfumato.evaluate.embed import Embedded, batches, check_distinct, embed
from sfumato.evaluate.encoders import dual_encoder, image_encoder
from sfumato.evaluate.fewshot import Shots, few_shot
from sfumato.evaluate.knn import Neighbours, knn
from sfumato.evaluate.probe import Probe, linear_probe
from sfumato.evaluate.prompts import PROMPTS, class_embeddings, prompts_of
from sfumato.evaluate.retrieval import Retrieved, retrieval, retrieved
from sfumato.evaluate.subject import Subject, at_random, captioner
from sfumato.evaluate.suite import SUITES, check_suites, run_suite, shareable, suites_for
from sfumato.evaluate.table import COLUMNS, table
from sfumato.evaluate.zeroshot import ZeroShot, choose_caption, zero_shot

__all__ = [
    "COLUMNS",
    "PROMPTS",
    "SUITES",
    "Accuracy",
    "Embedded",
    "Neighbours",
    "Probe",
    "Retrieved",
    "Shots",
    "Subject",
    "ZeroShot",
    "at_random",
    "attribute_accuracy",
    "batches",
    "bleu4",
    "captioner",
    "check_distinct",
    "check_suites",
    "choose_caption",
    "cider",
    "cider_scores",
    "class_embeddings",
    "counted",
    "dual_encoder",
    "embed",
    "few_shot",
    "hog",
    "image_encoder",
    "knn",
    "linear_probe",
    "per_class",
    "prompts_of",
    "raw_pixels",
    "read_caption",
    "retrieval",
    "retrieved",
    "run_suite",
    "shareable",
    "subset",
    "suites_for",
    "table",
    "wilson",
    "words",
    "zero_shot",
]
