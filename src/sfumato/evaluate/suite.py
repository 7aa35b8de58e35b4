"""Every measure on one model, and what of the result may be shared."""

import logging
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

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
from sfumato.evaluate.on_features import few_shot_suite, prepare, probe_suite
from sfumato.evaluate.subject import captioner

logger = logging.getLogger(__name__)

SUITES = ("probe", "fewshot", "zeroshot", "caption", "shapes", "aro")
TRAIN_LIMIT = 60_000  # pictures that a probe is fitted on: 400 MB of HOG features, and a minute of one core


def run_suite(
    model: Any,
    tokenizer: Any,
    preprocess: Evaluating,
    train_set: Pictures,
    test_set: Pictures,
    *,
    suites: Sequence[str] = SUITES,
    limit: int | None = None,
    train_limit: int | None = TRAIN_LIMIT,
    unseen_set: Pictures | None = None,
    random_model: Any = None,
    batch_size: int = 256,
    seed: int = 0,
    progress: Progress | None = None,
) -> Results:
    """Evaluate a captioner and return its figures as JSON values; `docs/evaluation.md` lists them.

    Args:
        model: a `VisionEncoderDecoderModel`, on its device; left as it was found.
        tokenizer: `sfumato.models.Tokenizer` of the run.
        preprocess: the run's `Preprocess`: one normalisation in training and evaluation.
        train_set: what probes are fitted on; never what is reported on.
        test_set: what is reported on.
        suites: any of `SUITES`.
        limit: how many pictures of each set at most (a seeded random subset); default all.
        train_limit: how many training pictures at most.
        unseen_set: scenes of combinations never trained on: with "shapes", the captions are measured on them too.
        random_model: the untrained twin; default the same configuration with fresh weights.
        batch_size: pictures at a time.
        seed: of subsets, splits, draws and the untrained twin.
        progress: called with (what, pictures done, pictures in all) after each batch.

    Returns:
        private: whether any part may not be shared (see `shareable`); seed; num_train; num_test; suites: for each
        suite its figures with its own `private`, or `skipped` and why.

    Raises:
        BadInput: an unknown suite; a test set that shares rows with the training set; a model that gives NaN.
    """
    check_suites(suites)
    for other in (test_set, unseen_set):
        if other is not None:
            check_distinct(train_set, other)
    bounds = [bound for bound in (limit, train_limit) if bound is not None]
    bench = Bench(
        subject=captioner(model, tokenizer, random_model=random_model, seed=seed),
        preprocess=preprocess,
        train_set=train_set,
        train_rows=subset(len(train_set), min(bounds, default=None), seed),
        test_set=test_set,
        test_rows=subset(len(test_set), limit, seed),
        batch_size=batch_size,
        seed=seed,
        progress=progress or _quiet,
    )
    results = run_bench(bench, suites)
    if unseen_set is not None and "shapes" in suites:
        rows = subset(len(unseen_set), limit, seed)
        unseen = _attempt(lambda: shapes_suite(bench, write_captions(bench, unseen_set, rows)))
        results["suites"]["shapes_unseen"] = unseen | {"private": is_private(unseen_set)}
        results["private"] = results["private"] or is_private(unseen_set)
    return results


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
    measures: dict[str, Callable[[], Results]] = {
        "probe": lambda: probe_suite(bench, prepared()),
        "fewshot": lambda: few_shot_suite(bench, prepared()),
        "zeroshot": lambda: zero_shot_suite(bench),
        "caption": lambda: caption_suite(bench, written()),
        "shapes": lambda: shapes_suite(bench, written()),
        "aro": lambda: aro_suite(bench),
    }
    test_private = is_private(bench.test_set)
    results = {}
    for name in SUITES:
        if name in suites:
            # a probe is fitted on training pictures without noise: its figure tells of them too
            fitted = name in ("probe", "fewshot") and is_private(bench.train_set)
            results[name] = _attempt(measures[name]) | {"private": test_private or fitted}
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
