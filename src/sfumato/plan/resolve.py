"""The defaults of a plan that follow from its sampler: relation and delta."""

from sfumato.base import BadInput, Refused, Relation
from sfumato.sampling import Sampler


def resolve_relation(given: Relation | str | None, sampler: Sampler) -> Relation:
    """Return the relation, the sampler's default for None.

    Raises:
        BadInput: there is no such relation.
        Refused: add_remove would hide the number of records, which sets the sampler.
    """
    if given is None:
        return sampler.default_relation
    try:
        relation = Relation(given)
    except ValueError:
        raise BadInput(f"unknown relation {given!r}: one of {', '.join(Relation)}.") from None
    if relation is Relation.ADD_REMOVE and sampler.num_records is not None:
        raise Refused(
            "add_remove protects the number of records, but this sampler is set by num_records: use relation zero_out "
            "(the same figures), or declare Poisson(sampling_prob=..., expected_batch_size=...)."
        )
    return relation


def resolve_delta(given: float | None, sampler: Sampler) -> float:
    """Return delta, 1 / (10 N) for None. Raises BadInput if it is out of (0, 1), or missing where N is hidden."""
    if given is not None:
        if isinstance(given, bool) or not isinstance(given, int | float) or not 0.0 < given < 1.0:
            raise BadInput(f"delta must lie in (0, 1), got {given!r}.")
        return float(given)
    if sampler.num_records is None:
        raise BadInput("delta has to be given where the number of records is hidden (take it well below 1 / N).")
    return 1.0 / (10.0 * sampler.num_records)
