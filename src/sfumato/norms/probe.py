"""Before training: which parameters are measured, where the examples are, and whether rows are independent.

Everything here runs on made-up rows (`made_up`), at the number of rows that trains and at one row:

1. Two recorded forward passes, the second with one row more: the dimension of a result that grows carries the batch;
   what is drawn at random must grow with it too (`recorder`, `draws`).
2. Backward passes of sets of rows: no gradient may arrive at other rows' entries, at any use of any parameter or at the
   inputs (`rows`).
3. What the tape measures of whole batches is compared with what every row gives alone (`certify`).
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from sfumato.base import BadInput, Refused
from sfumato.norms.certify import certify
from sfumato.norms.composite import RefuseMixing
from sfumato.norms.contract import Autocast, Combine, LossFn, Staged, per_example
from sfumato.norms.draws import Axes, Draws, FixedDraws, draw_axes
from sfumato.norms.ghost import joint_sum
from sfumato.norms.measured import Measured, refuse_unmeasurable, trainable
from sfumato.norms.path import Path
from sfumato.norms.pool import Alone, Subject, base_batch, make_pool
from sfumato.norms.synthetic import batch_size, synthetic_twin
from sfumato.norms.writes import changes


def prepare(
    model: nn.Module,
    loss_fn: LossFn,
    batch: Any,
    *,
    autocast: Autocast | None = None,
    synthetic: Callable[[int], Any] | None = None,
    combine: Combine | None = None,
    unused: str = "refuse",
    seed: int = 0,
) -> Measured:
    """Certify `loss_fn(model, batch)` for per-example clipping at the size of `batch`.

    Args:
        model: any module; left as it was, its random state too.
        loss_fn: (model, batch) -> one loss per example, shape (N,).
        batch: a micro-batch, read for its structure, shapes and types alone.
        autocast: makes the context under which the loss is computed.
        synthetic: n -> a synthetic batch of n rows, where ones and zeros are no valid integers for the model.
        combine: where `loss_fn` returns tensors that lead with the rows, makes one value per row of them, without any
            parameter. Only `loss_fn` is compared with the certified paths.
        unused: "refuse" or "zero": what to do with trainable parameters that no gradient reaches.
        seed: of the made-up rows.

    Raises:
        BadInput: the loss reaches something trainable outside the model.
        Refused: the loss is not one value per row, a row depends on another row, a parameter's use has no rule, a
            buffer learns from the data, a trainable parameter gets no gradient, or the model does not take the made-up
            rows. The message names it.
    """
    parameters = trainable(model)
    if not parameters:
        raise BadInput("the model has no parameter with requires_grad=True.")
    refuse_unmeasurable(parameters)
    count = batch_size(batch)
    form = synthetic_twin(batch, 1)  # no value of a private row is kept
    make = synthetic or (lambda n: synthetic_twin(form, n))
    certifier = _Certifier(model, Staged(loss_fn, combine), make, parameters, autocast, seed)
    certifier(count)
    missing = tuple(name for name in parameters if name not in certifier.reached)
    if missing and unused == "refuse":
        raise Refused(
            f"no gradient reaches {_list(missing)}: freeze with requires_grad_(False), or remove the module "
            "(with gradient checkpointing use use_reentrant=False)."
        )
    return Measured(
        names=tuple(parameters),
        certified=certifier,
        singles=certifier.singles,
        sample=certifier.sample,
        more=certifier.more,
        repeat=certifier.repeat,
        unused=missing,
    )


class _Certifier:
    """Certifies numbers of rows as they are asked for."""

    def __init__(
        self,
        model: nn.Module,
        loss: Staged,
        make: Callable[[int], Any],
        parameters: Mapping[str, nn.Parameter],
        autocast: Autocast | None,
        seed: int,
    ) -> None:
        self._make, self._seed = make, seed
        self._known: dict[int, tuple[Path, ...]] = {}
        self.reached: frozenset[str] = frozenset()
        self.singles: tuple[Path, ...] = ()
        self._ordinary: list[Alone] = []
        self.more: Callable[[int], list[Any]] = lambda seed: []
        half = any(p.is_floating_point() and p.dtype.itemsize < 4 for p in model.parameters())

        def subject(under: Autocast | None) -> Subject:
            def measure(batch: Any, paths: Any, weights: Tensor, valid: Tensor) -> Any:
                now = trainable(model)
                device = next(iter(now.values())).device
                found = joint_sum(
                    model, loss, batch, now, paths, lambda norms: weights.to(norms), valid=valid.to(device),
                    autocast=under, part_ill=False,
                )  # fmt: skip
                return found.losses, found.norms, found.grads

            return Subject(
                model=model,
                loss_fn=loss,
                parameters=parameters,
                context=under or nullcontext,
                measure=measure,
                low=half or under is not None,
            )

        self._subject = subject(autocast)
        self._plain = subject(None) if autocast is not None and not half else None

    def __call__(self, count: int) -> tuple[Path, ...]:
        """Return the certified paths of `count` rows. Raises as `prepare`."""
        if count not in self._known:
            self._known[count] = ()  # where it is refused: asked again, there is no path
            self._known[count] = self._certify(count, self._seed)
        return self._known[count]

    def sample(self, count: int) -> Any:
        """Return rows like those of the first certified path."""
        return base_batch(self._ordinary, count)

    def repeat(self, seed: int) -> None:
        """Hold the certified paths to other made-up rows; none is added, so that a resumed run has the same paths."""
        for count, paths in list(self._known.items()):
            self._known[count] = self._certify(count, seed, paths)

    def _certify(self, count: int, seed: int, known: tuple[Path, ...] = ()) -> tuple[Path, ...]:
        subject = self._subject
        model, parameters = subject.model, subject.parameters
        buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
        with torch.random.fork_rng(devices=_cuda_devices(parameters)), torch.enable_grad(), _shaken(parameters):
            try:
                _check_start(subject, self._make(count), count)
                subject = replace(subject, draws=_draws(subject, self._make))
                pool = make_pool(subject, self._make, seed)
                paths = certify(subject, pool, count, seed, known)
                if not known:
                    self._certify_plain(count, seed)
                self.reached |= pool.reached
                self.singles = self.singles or pool.singles
                if not self._ordinary:
                    self._ordinary, self.more = pool.ordinary, pool.more
            except (BadInput, Refused):
                raise
            except torch.OutOfMemoryError as error:
                raise BadInput(
                    f"certification ran out of memory with micro-batches of {count}: it takes up to two and a half "
                    "times what a step takes, once, and holds a copy of the model, for it compares in float64 too. Use "
                    "a smaller micro-batch; the batch of a step, and so the privacy, may stay as it is."
                ) from error
            except Exception as error:
                _check_buffers(model, buffers)
                raise Refused(
                    f"the model or its loss fails on made-up rows ({type(error).__name__}: {_short(error)}). Where it "
                    "needs special values, pass synthetic=, rows that it takes; with gradient checkpointing use "
                    "use_reentrant=False."
                ) from error
            finally:
                changed = _restore_buffers(model, buffers)
        if changed:
            raise Refused(changes(f"the buffer {changed}"))
        return paths

    def _certify_plain(self, count: int, seed: int) -> None:
        """Certify without autocast too: rules that differ from autograd by less than what rounding hides under it."""
        if self._plain is None:
            return
        try:
            plain = replace(self._plain, draws=_draws(self._plain, self._make))
            certify(plain, make_pool(plain, self._make, seed), count, seed)
        except (BadInput, Refused, torch.OutOfMemoryError):
            raise
        except Exception:  # a model that needs autocast
            return


def _check_start(subject: Subject, batch: Any, count: int) -> None:
    """Refuse by name what shows in one forward pass: BatchNorm in training, and a loss that is not one for each row."""
    with torch.enable_grad(), subject.context(), RefuseMixing():
        per_example(subject.loss_fn(subject.model, batch), count)


def _draws(subject: Subject, make: Callable[[int], Any]) -> Axes | None:
    """Return where the rows are in what is drawn at random; None where nothing is."""
    draws, batch = Draws(), make(2)
    with torch.enable_grad(), subject.context(), draws:
        subject.loss_fn(subject.model, batch)
    if not draws.found:
        return None
    seen = []
    for count in (2, 3):
        watch, batch = FixedDraws("mixed", range(count), {}), make(count)
        with sdpa_kernel(SDPBackend.MATH), watch, torch.enable_grad(), subject.context():
            subject.loss_fn(subject.model, batch)
        seen.append(watch.seen)
    return draw_axes(*seen)


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _list(names: tuple[str, ...]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _cuda_devices(parameters: Mapping[str, Tensor]) -> list[int]:
    return sorted({p.device.index or 0 for p in parameters.values() if p.device.type == "cuda"})


@contextmanager
def _shaken(parameters: Mapping[str, Tensor]) -> Iterator[None]:
    """Add noise to all parameters for a while: behind a layer that starts at zero no gradient could be seen."""
    kept = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    generator = torch.Generator().manual_seed(0)
    try:
        with torch.no_grad():
            for parameter in parameters.values():
                noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float32)
                parameter.data.add_(0.02 * noise.to(parameter))  # not counted as a change of the model
        yield
    finally:
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.data.copy_(kept[name])


def _restore_buffers(model: nn.Module, before: Mapping[str, Tensor]) -> str | None:
    """Put buffers back as they were; return the name of one that had changed."""
    changed = None
    for name, buffer in model.named_buffers():
        if name in before and buffer.shape == before[name].shape and not torch.equal(buffer, before[name]):
            buffer.data.copy_(before[name])
            changed = changed or name
    return changed


def _check_buffers(model: nn.Module, before: Mapping[str, Tensor]) -> None:
    changed = _restore_buffers(model, before)
    if changed:
        raise Refused(changes(f"the buffer {changed}"))
