"""Why a model is refused, module by module, and the nearest thing that works, tried before it is named."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from sfumato import norms
from sfumato.losses import Contrast
from sfumato.norms.inspect import Inspection, batch_norms_in_training, inspect
from sfumato.norms.leak import first_leak
from sfumato.recipes.doctor_case import Case

_EXPERTS = re.compile(r"(MoE|Moe|Experts|SparseM[lL]P|TopKRouter|Top2Router|Switch)")
_ROUNDS = 3
_LISTED = 3
_HELD, _FROZEN = "held in evaluation mode", "frozen"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One reason against training a model as it is.

    Attributes:
        where: names of modules, parameters or buffers.
        why: in words.
        instead: the nearest thing that works.
        tried: the change with which `works_with` tries the model; empty where no setting helps.
    """

    where: tuple[str, ...]
    why: str
    instead: str
    tried: str = ""

    @property
    def named(self) -> str:
        """The first few names."""
        more = len(self.where) - _LISTED
        return ", ".join(self.where[:_LISTED]) + (f" and {more} more" if more > 0 else "")


def findings(case: Case, seen: Inspection) -> list[Finding]:
    """Return every reason that can be told, for a model that training refuses."""
    found = [*_batch_norms(case, seen), *_learning(case, seen), *_without_rule(case, seen), *_unreached(seen)]
    if not seen.batch_norms:
        found += _leaks(case, seen)
    if not found:
        found += _experts(case)
    return found or [Finding(where=(), why=str(seen.refusal), instead="")]


def works_with(case: Case, seen: Inspection) -> str | None:
    """Return None where the model trains once the changes of `findings` that are settings are made, else the refusal.

    They are made on the model itself: BatchNorm and modules with learning buffers into eval(), parameters that are not
    measured or not reached frozen.
    """
    refusal = seen.refusal
    for _ in range(_ROUNDS):
        if refusal is None or not _repair(case.model, seen):
            return refusal
        if not any(parameter.requires_grad for parameter in case.model.parameters()):
            return "nothing is left to train."
        seen = inspect(case.model, rows_loss(case), case.batch(4), synthetic=case.synthetic)
        refusal = seen.refusal
    return refusal


def rows_loss(case: Case) -> Callable[[nn.Module, Any], Any]:
    """Return what the engine's checks run on: the loss, or one value per row that moves with its embeddings."""
    return case.loss_fn.of_rows if isinstance(case.loss_fn, Contrast) else case.loss_fn


def _repair(model: nn.Module, seen: Inspection) -> bool:
    """Make the changes that settings can make; return whether there were any."""
    named = dict(model.named_modules())
    still = {*seen.batch_norms, *(name.rpartition(".")[0] for name in seen.learning)}
    for name in still:
        named[name].eval()
    frozen = {use.name for use in seen.uses if use.without_rule} | set(seen.unreached)
    for name, parameter in model.named_parameters():
        if name in frozen:
            parameter.requires_grad_(False)
    return bool(still or frozen)


def _batch_norms(case: Case, seen: Inspection) -> list[Finding]:
    if not seen.batch_norms:
        return []
    return [
        Finding(
            where=seen.batch_norms,
            why="BatchNorm in training mode normalises each row with the others of its batch",
            instead=_instead_of_batch_norm(case.source),
            tried=_HELD,
        )
    ]


def _instead_of_batch_norm(source: str) -> str:
    if found := re.match(r"open_clip (\S+)", source):
        return f"a weights file, whose statistics are then held (open_clip:{found.group(1)}:FILE)"
    if not source.startswith("timm "):
        return "frozen statistics (eval()), or GroupNorm in its place"
    twin = group_norm_twin(source)
    return (
        "frozen statistics (--batch-norm frozen, with a weights file), or GroupNorm in its place (--batch-norm group, "
        f"from scratch){f'; timm:{twin} is the same model with GroupNorm' if twin else ''}"
    )


def group_norm_twin(source: str) -> str | None:
    """Return timm's name of the same model with GroupNorm, where there is one."""
    found = re.match(r"timm (\w+)", source)
    if not found:
        return None
    from sfumato.models.timm_start import require_timm

    name = f"{found.group(1)}_gn"
    return name if require_timm().is_model(name) else None


def _learning(case: Case, seen: Inspection) -> list[Finding]:
    norms_of = set(batch_norms_in_training(case.model))
    buffers = tuple(name for name in seen.learning if name.rpartition(".")[0] not in norms_of)
    if not buffers:
        return []
    why = "the buffer changes in the forward pass: it would carry un-noised statistics of records out"
    instead = "its module in eval(), or a model without a queue or average"
    return [Finding(where=buffers, why=why, instead=instead, tried=_HELD)]


def _without_rule(case: Case, seen: Inspection) -> list[Finding]:
    by_function: dict[str, list[str]] = {}
    for use in seen.uses:
        for function in use.without_rule:
            by_function.setdefault(function, []).append(use.name)
    return [
        Finding(
            where=tuple(names),
            why=f"no rule measures a parameter in {function} row by row",
            instead=f"freeze it{_otherwise(case)}, write its use with linear, matmul or elementwise "
            "functions, or register a rule with sfumato.norms.register_rule",
            tried=_FROZEN,
        )
        for function, names in by_function.items()
    ]


def _otherwise(case: Case) -> str:
    return f" (of this model --train can be {case.choices.said})" if case.choices.said else ""


def _unreached(seen: Inspection) -> list[Finding]:
    if not seen.unreached:
        return []
    instead = "freeze it with requires_grad_(False)"
    return [Finding(where=seen.unreached, why="no gradient reaches it", instead=instead, tried=_FROZEN)]


def _leaks(case: Case, seen: Inspection) -> list[Finding]:
    """Name the module that lets rows reach each other, where the refusal says that they do."""
    if "rows depend on each other" not in str(seen.refusal):
        return []

    def make(num_rows: int) -> Any:
        return case.synthetic(num_rows) if case.synthetic else norms.synthetic_twin(case.batch(2), num_rows)

    where = first_leak(case.model, rows_loss(case), make)
    if where is None:
        return [
            Finding(
                where=("the loss",),
                why="one row's loss moves with another row's input, and no module's output does",
                instead="a loss with one term for each row, averaged within it; for a contrastive loss --unit group",
            )
        ]
    kind = type(case.model.get_submodule(where)).__name__
    why = f"{kind}: its output for a row depends on other rows; it is the first module of which this is so"
    return [Finding(where=(where,), why=why, instead="a layer that treats each row by itself")]


def _experts(case: Case) -> list[Finding]:
    names = tuple(name for name, module in case.model.named_modules() if _EXPERTS.search(type(module).__name__))
    if not names:
        return []
    why = "a mixture of experts: which tokens an expert sees depends on the whole batch"
    return [Finding(where=names, why=why, instead=f"freeze the experts{_otherwise(case)}, or a dense model")]
