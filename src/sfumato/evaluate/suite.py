"""Every measure on one model, and what of the result may be shared."""

import logging
from collections.abc import Callable, Sequence
from functools import cache

from sfumato.base import BadInput
from sfumato.evaluate.bench import Bench, NotApplicableError, Results, is_private, subset
from sfumato.evaluate.embed import Evaluating, Pictures, Progress, check_distinct
from sfumato.evaluate.on_captions import (
    aro_suite,
    caption_suite,
    shapes_suite,
    write_captions,
    zero_shot_suite,
)
from sfumato.evaluate.on_features import few_shot_suite, knn_suite, prepare, probe_suite
from sfumato.evaluate.on_pairs import prompt_suite, retrieval_suite
from sfumato.evaluate.on_questions import answer_questions, training_questions, vqa_baselines_suite, vqa_suite
from sfumato.evaluate.subject import Subject

logger = logging.getLogger(__name__)

SUITES = ("probe", "fewshot", "knn", "zeroshot", "retrieval", "caption", "shapes", "aro", "vqa")
ON_FEATURES = ("probe", "fewshot", "knn")  # they look at training pictures too
TRAIN_LIMIT = 60_000  # pictures that a probe is fitted on: 400 MB of HOG features, and a minute of one core


def run_suite(
    subject: Subject,
    preprocess: Evaluating | None,
    train_set: Pictures,
    test_set: Pictures,
    *,
    suites: Sequence[str] | None = None,
    limit: int | None = None,
    train_limit: int | None = TRAIN_LIMIT,
    unseen_set: Pictures | None = None,
    answers: Sequence[str] | None = None,
    batch_size: int = 256,
    seed: int = 0,
    progress: Progress | None = None,
) -> Results:
    """Evaluate a model and return its figures as JSON values; `docs/evaluation.md` lists them.

    Args:
        subject: the model, as `captioner`, `dual_encoder`, `image_encoder` or `answerer` makes it.
        preprocess: the run's `Preprocess`: one normalisation in training and evaluation. None where only
            questions are asked, which take pictures as they were read.
        train_set: what probes are fitted on and neighbours sought in; never what is reported on.
        test_set: what is reported on.
        suites: any of `SUITES`; default those that suit the model (`suites_for`).
        limit: how many pictures of each set at most (a seeded random subset); default all.
        train_limit: how many training pictures at most.
        unseen_set: scenes of combinations never trained on: with "shapes", the captions are measured on them too.
        answers: public answers that "vqa" ranks; default the commonest of a training set that is declared public.
        batch_size: pictures at a time.
        seed: of subsets, splits and draws.
        progress: called with (what, pictures done, pictures in all) after each batch.

    Returns:
        private: whether any part may not be shared (see `shareable`); seed; num_train; num_test; suites: for each
        suite its figures with its own `private`, or `skipped` and why.

    Raises:
        BadInput: an unknown suite; a test set that shares rows with the training set; a model that gives NaN.
    """
    suites = suites_for(subject) if suites is None else suites
    check_suites(suites)
    for other in (test_set, unseen_set):
        if other is not None:
            check_distinct(train_set, other)
    bounds = [bound for bound in (limit, train_limit) if bound is not None]
    bench = Bench(
        subject=subject,
        preprocess=preprocess,
        train_set=train_set,
        train_rows=subset(len(train_set), min(bounds, default=None), seed),
        test_set=test_set,
        test_rows=subset(len(test_set), limit, seed),
        batch_size=batch_size,
        seed=seed,
        progress=progress or _quiet,
        answers=None if answers is None else tuple(answers),
    )
    results = run_bench(bench, suites)
    if unseen_set is not None and "shapes" in suites:
        rows = subset(len(unseen_set), limit, seed)
        unseen = _attempt(lambda: shapes_suite(bench, write_captions(bench, unseen_set, rows)))
        results["suites"]["shapes_unseen"] = unseen | {"private": is_private(unseen_set)}
        results["private"] = results["private"] or is_private(unseen_set)
    return results


def suites_for(subject: Subject) -> tuple[str, ...]:
    """Return the suites that a model has all parts for, in the order of `SUITES`."""
    has_space = subject.embed_images is not None and subject.embed_texts is not None
    asked = subject.answer is not None or subject.score_answers is not None
    fits = dict.fromkeys(ON_FEATURES, subject.encode is not None) | {
        "zeroshot": has_space or subject.score_labels is not None,
        "retrieval": has_space,
        "caption": subject.describe is not None,
        "shapes": subject.describe is not None,
        "aro": subject.caption_losses is not None,
        "vqa": asked,
    }
    return tuple(name for name in SUITES if fits[name])


def check_suites(suites: Sequence[str]) -> None:
    """Refuse names that are no suite.

    Raises:
        BadInput: listing the known ones.
    """
    unknown = [name for name in suites if name not in SUITES]
    if unknown or not suites:
        raise BadInput(f"unknown suite {', '.join(unknown) or '(none given)'}; there are {', '.join(SUITES)}.")


def run_bench(bench: Bench, suites: Sequence[str]) -> Results:
    """Run the suites in the order of `SUITES`; see `run_suite` for what comes back."""
    prepared = cache(lambda: prepare(bench))  # pictures are read, and captions written, at most once
    written = cache(lambda: write_captions(bench, bench.test_set, bench.test_rows))
    learned = cache(lambda: training_questions(bench))
    answered = cache(lambda: answer_questions(bench, learned))
    measures: dict[str, Callable[[], Results]] = {
        "probe": lambda: probe_suite(bench, prepared()),
        "fewshot": lambda: few_shot_suite(bench, prepared()),
        "knn": lambda: knn_suite(bench, prepared()),
        "zeroshot": lambda: prompt_suite(bench) if bench.subject.embed_texts is not None else zero_shot_suite(bench),
        "retrieval": lambda: retrieval_suite(bench),
        "caption": lambda: caption_suite(bench, written()),
        "shapes": lambda: shapes_suite(bench, written()),
        "aro": lambda: aro_suite(bench),
        "vqa": lambda: vqa_suite(answered()),
    }
    test_private = is_private(bench.test_set)
    results = {}
    for name in SUITES:
        if name in suites:
            # probes and neighbours look at training pictures without noise: their figures tell of them too
            fitted = name in ON_FEATURES and is_private(bench.train_set)
            results[name] = _attempt(measures[name]) | {"private": test_private or fitted}
    if "skipped" not in results.get("vqa", {"skipped": ""}):
        # apart from the model's own figures: these tell of the training answers, without noise
        beside = _attempt(lambda: vqa_baselines_suite(answered(), learned))
        results["vqa_baselines"] = beside | {"private": test_private or is_private(bench.train_set)}
    return {
        "private": any(found["private"] for found in results.values()),
        "seed": bench.seed,
        "num_train": len(bench.train_rows),
        "num_test": len(bench.test_rows),
        "suites": results,
    }


def shareable(results: Results) -> Results:
    """Return the results without the private suites: what may stand in `export/`.

    Where any suite was private the numbers of pictures go too: how many rows somebody's set has is not declared public.
    """
    if not results["private"]:
        return results
    suites = {name: found for name, found in results["suites"].items() if not found["private"]}
    return {"private": False, "seed": results["seed"], "suites": suites}


def _attempt(measure: Callable[[], Results]) -> Results:
    try:
        return measure()
    except NotApplicableError as reason:
        logger.info("skipped: %s", reason)
        return {"skipped": str(reason)}


def _quiet(what: str, done: int, total: int) -> None:
    logger.debug("%s: %d of %d", what, done, total)
