"""What to change where learning is hopeless or doubtful, with numbers, by what works for the model at hand."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import nn

from sfumato.base import BadInput
from sfumato.norms.inspect import untouched
from sfumato.recipes.doctor_case import Case
from sfumato.recipes.doctor_data import MADE_UP
from sfumato.recipes.doctor_signal import DOUBTFUL, Gradient, Signal

_RANKS = (8, 1)
_FEW = 0.5  # clipped units below which the clip norm, and with it the noise, is larger than the gradients


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Something that `--train` may be.

    Attributes:
        flags: as one types it.
        parameters: how many numbers train then.
    """

    flags: str
    parameters: int


def advice(signal: Signal, num_parameters: int, choices: Sequence[Choice]) -> list[str]:
    """Return what to change for R to reach `DOUBTFUL`; empty where it does.

    R grows with sqrt(T) B / (sigma sqrt(P)) times the gradient's norm. The numbers rest on the measured R of public
    rows; where that tells nothing on the largest possible R, so they are the least that helps.

    Args:
        signal: of the first step.
        num_parameters: P.
        choices: of `fewer`, the most numbers first.
    """
    if signal.verdict == "fine":
        return []
    gradient, found = signal.gradient, _clip_norm(signal.gradient)
    factor, least = DOUBTFUL / signal.decides, "" if gradient.tells else "at least "
    if factor <= 1:
        look = "measure it on public pictures (--data); " if gradient.inputs == MADE_UP else ""
        found.append(f"{look}fewer trainable parameters, larger batches, more records help")
        return [*found, _named(choices, num_parameters, 0), _PRETRAINED]
    most = int(num_parameters / factor**2)
    few = f"train at most {most:,} parameters, or " if most else ""
    found.append(f"{few}take {least}{_up(factor)} times the batch from as many times the records")
    found.append(_named(choices, num_parameters, most))
    if choices and choices[-1].parameters > most:
        left = factor * math.sqrt(choices[-1].parameters / num_parameters)
        found.append(
            f"none of these is few enough: with {choices[-1].flags} also take {least}{_up(left)} times the batch"
        )
    return [*found, _PRETRAINED]


def _clip_norm(gradient: Gradient) -> list[str]:
    """Return the advice to clip at the median norm, where few gradients are as long as the noise is made for."""
    if gradient.clipped >= _FEW or not gradient.median_norm:
        return []
    return [
        f"lower --clip-norm to about {gradient.median_norm:.2g}, the median norm, and look again: at "
        f"{gradient.clip_norm:g}, for which the noise is made, {gradient.clipped:.0%} are clipped"
    ]


def _up(factor: float) -> str:
    """Return a factor with one decimal, rounded up so that it suffices."""
    return f"{math.ceil(round(10 * factor, 6)) / 10:.1f}"


_PRETRAINED = "start from public pre-training, so that less has to be learned"


def _named(choices: Sequence[Choice], num_parameters: int, most: int) -> str:
    if not choices:
        return "nothing that --train can be here trains fewer: a smaller model does"
    return f"what --train can be here instead: {'; '.join(_one(choice, num_parameters, most) for choice in choices)}"


def _one(choice: Choice, num_parameters: int, most: int) -> str:
    gain = math.sqrt(num_parameters / choice.parameters)
    enough = ", few enough" if choice.parameters <= most else ""
    return f"{choice.flags} ({choice.parameters:,} parameters, {gain:.1f} times less noise{enough})"


def fewer(case: Case) -> list[Choice]:
    """Return what can train of this model with fewer parameters than now, the most numbers first.

    The model is left as it was.
    """
    now = _trainable(case.model)
    found = [*_parts(case), *_adapters(case)]
    return sorted((choice for choice in found if choice.parameters < now), key=lambda choice: -choice.parameters)


def _trainable(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def _parts(case: Case) -> Iterator[Choice]:
    """Yield heads, last blocks and biases, each tried on the model."""
    before = [(parameter, parameter.requires_grad) for parameter in case.model.parameters()]
    for name in case.choices.names:
        assert case.choices.choose is not None
        try:
            with untouched(case.model):
                case.choices.choose(name)
            yield Choice(flags=f"--train {name}", parameters=_trainable(case.model))
        except BadInput:  # the model has no such part
            continue
        finally:
            for parameter, requires_grad in before:
                parameter.requires_grad_(requires_grad)


def _adapters(case: Case) -> Iterator[Choice]:
    """Yield LoRA of two ranks."""
    if case.choices.lora is None:
        return
    try:
        besides, each = case.choices.lora()
    except BadInput:  # no layer can carry it
        return
    for rank in _RANKS:
        yield Choice(flags=f"--train lora --rank {rank}", parameters=besides + rank * each)
