"""Evaluation: what an encoder learned and what a model says, always beside what learned nothing.

Metrics are pure functions of arrays; `run_suite` feeds them. scikit-learn (the extra `eval`) is needed by probes only.
"""

from sfumato.evaluate.accuracy import Accuracy, counted, per_class, wilson
from sfumato.evaluate.answerer import answerer
from sfumato.evaluate.answers import answer_type, consensus, exact_match, normalise_answer, vqa_accuracy
from sfumato.evaluate.attributes import attribute_accuracy, read_caption
from sfumato.evaluate.baselines import hog, raw_pixels
from sfumato.evaluate.bench import subset
from sfumato.evaluate.blind import QuestionOnly, commonest_answer, commonest_by_kind, question_only
from sfumato.evaluate.caption import bleu4, cider, cider_scores, words
from sfumato.evaluate.clusters import Clustered, clustered_difference, clustered_share
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
from sfumato.evaluate.vqa import Questions, best_answers, chance_of, common_answers, vqa_figures
from sfumato.evaluate.zeroshot import ZeroShot, choose_caption, zero_shot

__all__ = [
    "COLUMNS",
    "PROMPTS",
    "SUITES",
    "Accuracy",
    "Clustered",
    "Embedded",
    "Neighbours",
    "Probe",
    "QuestionOnly",
    "Questions",
    "Retrieved",
    "Shots",
    "Subject",
    "ZeroShot",
    "answer_type",
    "answerer",
    "at_random",
    "attribute_accuracy",
    "batches",
    "best_answers",
    "bleu4",
    "captioner",
    "chance_of",
    "check_distinct",
    "check_suites",
    "choose_caption",
    "cider",
    "cider_scores",
    "class_embeddings",
    "clustered_difference",
    "clustered_share",
    "common_answers",
    "commonest_answer",
    "commonest_by_kind",
    "consensus",
    "counted",
    "dual_encoder",
    "embed",
    "exact_match",
    "few_shot",
    "hog",
    "image_encoder",
    "knn",
    "linear_probe",
    "normalise_answer",
    "per_class",
    "prompts_of",
    "question_only",
    "raw_pixels",
    "read_caption",
    "retrieval",
    "retrieved",
    "run_suite",
    "shareable",
    "subset",
    "suites_for",
    "table",
    "vqa_accuracy",
    "vqa_figures",
    "wilson",
    "words",
    "zero_shot",
]
