"""What made-up rows give alone, and the batches that are put together of them: the material of a certification."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from sfumato.base import BadInput, Refused
from sfumato.norms import made_up
from sfumato.norms.contract import Autocast, Staged, per_example
from sfumato.norms.draws import SETTINGS, Axes, FixedDraws
from sfumato.norms.follow import noting
from sfumato.norms.layout import Layouts
from sfumato.norms.lengths import squared_norms
from sfumato.norms.path import Path, Visit
from sfumato.norms.rows import row_sets
from sfumato.norms.synthetic import has_floats, joined


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is certified.

    Attributes:
        model, loss_fn: `loss_fn(model, batch)` gives one value per row.
        parameters: the trainable ones, by name.
        context: of the forward pass.
        measure: (batch, paths, weights, valid) -> losses, norms (N,) and sums by name, as the tape measures them.
        low: whether something is of lower precision than float32.
        draws: where the rows are in what the model draws at random; None where it draws nothing.
        exact: in a copy of higher precision, the tolerance; and the loss below which it is absolute.
        met: trainable tensors that some pass reached and that are no parameters, by id.
    """

    model: Any
    loss_fn: Staged
    parameters: Mapping[str, Tensor]
    context: Autocast
    measure: Callable[[Any, Sequence[Path], Tensor, Tensor], tuple[Tensor, Tensor, Mapping[str, Tensor]]]
    low: bool = False
    draws: Axes | None = None
    exact: tuple[float, float] | None = None
    met: dict[int, Tensor] = field(default_factory=dict, repr=False)

    @property
    def tolerance(self) -> float:
        """How far two ways of computing one number may be apart, relative to it."""
        if self.exact is not None:
            return self.exact[0]
        if self.low:
            return 0.1
        return 1e-6 if next(iter(self.parameters.values())).dtype == torch.float64 else 1e-3


@dataclass(frozen=True)
class Alone:
    """One made-up row, its number, and what it gives alone under one setting of random numbers: its loss, and its
    gradient's norm and product with r by parameter.
    """

    row: Any
    number: int
    loss: Tensor
    norms: Tensor
    products: Tensor

    @property
    def finite(self) -> bool:
        return bool(torch.isfinite(self.loss) & torch.isfinite(self.norms).all())


@dataclass(frozen=True, kw_only=True)
class Pool:
    """The made-up rows of a certification.

    Attributes:
        settings: setting of random numbers -> ordinary rows, with what they give alone; the first one is that of paths.
        hostile: of which nothing is compared.
        reached: parameters that get a gradient from any of them.
        singles: the paths that ordinary rows take by themselves.
        more: seed -> other ordinary rows.
        vector: r.
    """

    settings: dict[str, list[Alone]]
    hostile: list[Any]
    reached: frozenset[str]
    singles: tuple[Path, ...]
    more: Callable[[int], list[Any]] = field(repr=False)
    vector: Tensor = field(repr=False)

    @property
    def ordinary(self) -> list[Alone]:
        """The rows under the first setting."""
        return next(iter(self.settings.values()))


def make_pool(subject: Subject, make: Callable[[int], Any], seed: int) -> Pool:
    """Return made-up rows that the model takes one by one.

    Raises:
        BadInput: the loss reaches something trainable outside the model.
        Refused: a row of `make` alone has not one loss of shape (1,).
    """
    generator = torch.Generator().manual_seed(seed)
    longest = max(p.numel() for p in subject.parameters.values())
    first = next(iter(subject.parameters.values()))
    vector = torch.randn(longest, generator=generator, dtype=torch.float32).to(first.device)
    base = made_up.base_rows(make)
    ranges = made_up.find_ranges(base[0], lambda row: _works(subject, row))
    more = partial(made_up.ordinary_rows, base, ranges)
    rows = [*base, *(row for row in more(seed) if _works(subject, row))]
    taken: list[tuple[Visit, ...]] = []
    settings: dict[str, list[Alone]] = {}
    reached: frozenset[str] = frozenset()
    for setting in SETTINGS if subject.draws is not None else SETTINGS[:1]:
        found = []
        for number, row in enumerate(rows):
            try:
                alone, names = alone_of(subject, setting, number, row, vector, taken)
            except BadInput:  # of the model, whichever row shows it
                raise
            except Exception:
                if setting == SETTINGS[0] and row is base[0]:
                    raise
                continue
            found.append(alone)
            reached |= names
        finite = [alone for alone in found if alone.finite]
        settings |= {setting: finite} if finite else {}
    hostile = [row for row in made_up.hostile_rows(base, ranges, seed) if _works(subject, row)]
    if not settings:
        raise Refused("no made-up row has a finite loss and gradient: pass synthetic=, rows that the model takes.")
    singles = tuple(Path(visits, Layouts(())) for visits in dict.fromkeys(taken))
    return Pool(settings=settings, hostile=hostile, reached=reached, singles=singles, more=more, vector=vector)


def alone_of(
    subject: Subject, setting: str, number: int, row: Any, vector: Tensor, taken: list[tuple[Visit, ...]]
) -> tuple[Alone, frozenset[str]]:
    """Return what a row gives alone, and the parameters that its gradient reaches; adds its path to `taken`.

    Raises:
        Refused: its loss has not the shape (1,), or depends on no trainable parameter.
        BadInput: it reaches something trainable outside the model.
    """
    visits: list[Visit] = []
    with fixed(subject, setting, [number]):
        with torch.enable_grad(), subject.context():
            with noting(visits, 1):
                made = subject.loss_fn.rows(subject.model, row)
            losses = per_example(subject.loss_fn.finish(made), 1)
        taken.append(tuple(visits))
        if not losses.requires_grad:
            raise Refused("the loss does not depend on any trainable parameter.")
        _check_leaves(losses, subject)
        grads = torch.autograd.grad(losses[0], list(subject.parameters.values()), allow_unused=True)
    named = [(name, grad) for name, grad in zip(subject.parameters, grads, strict=True)]
    norms = torch.stack([_number(grad, lambda g: squared_norms(_wide(g)[None])[0].sqrt()) for _, grad in named])
    products = torch.stack([_number(grad, lambda g: product(g, vector)) for _, grad in named])
    reached = frozenset(name for name, grad in named if grad is not None)
    return Alone(row, number, losses[0].detach().double(), norms, products), reached


def _check_leaves(losses: Tensor, subject: Subject) -> None:
    """Refuse a loss that reaches something trainable outside the model: it would be neither clipped nor stepped. What a
    pass makes itself, as T5's does under gradient checkpointing, is another tensor in every pass.

    Raises:
        BadInput: it does.
    """
    known = {id(parameter) for parameter in subject.parameters.values()}
    stack, seen = [losses.grad_fn], set()
    while stack:
        node: Any = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        leaf = getattr(node, "variable", None)
        if leaf is not None and id(leaf) not in known:
            lasts = isinstance(leaf, nn.Parameter) or id(leaf) in subject.met
            subject.met[id(leaf)] = leaf
            if not lasts:
                continue
            raise BadInput(
                f"the loss depends on a trainable tensor of shape {tuple(leaf.shape)} that is not a parameter of the "
                "model: make its module a part of the model that is passed, or freeze it with requires_grad_(False)."
            )
        stack.extend(following for following, _ in node.next_functions)


def _number(grad: Tensor | None, of: Callable[[Tensor], Tensor]) -> Tensor:
    return torch.zeros((), dtype=torch.float64) if grad is None else of(grad).double().cpu()


def _wide(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def product(tensor: Tensor, vector: Tensor) -> Tensor:
    wide = _wide(tensor).flatten()
    return wide @ vector[: wide.numel()].to(wide.dtype)


def _works(subject: Subject, row: Any) -> bool:
    try:
        # as in training, hooks on tensors included
        with torch.enable_grad(), fixed(subject, SETTINGS[0], [0]), subject.context(), made_up.InRange():
            per_example(subject.loss_fn(subject.model, row), 1)
    except Exception:
        return False
    return True


def fixed(subject: Subject, setting: str, numbers: Sequence[int]) -> Any:
    """Return a context in which rows of these numbers draw by `setting`; attention is computed by functions that show
    their draws.
    """
    if subject.draws is None:
        return nullcontext()
    stack = ExitStack()
    stack.enter_context(sdpa_kernel(SDPBackend.MATH))
    stack.enter_context(FixedDraws(setting, numbers, subject.draws))
    return stack


# ---------------------------------------------------------------- batches of made-up rows


_HOSTILE = 1000  # numbers of hostile rows begin here


@dataclass(frozen=True, kw_only=True)
class Assembly:
    """A batch of made-up rows.

    Attributes:
        batch, longer: of N rows, and with one row more.
        alones: by row, what it gives alone; None for a hostile one, which is not compared.
        numbers: of the rows.
        setting: of random numbers.
        poison: rows whose looked-up entries are replaced, and by what.
    """

    batch: Any
    longer: Any
    alones: list[Alone | None]
    numbers: list[int]
    setting: str
    poison: tuple[Tensor, float] | None = None

    @property
    def compared(self) -> Tensor:
        """Which rows are, bool (N,)."""
        return torch.tensor([alone is not None for alone in self.alones])


def assemblies(pool: Pool, count: int, seed: int) -> list[Assembly]:
    """Return batches of `count` rows: base rows, all kinds in several orders, one row everywhere, and ordinary rows
    among hostile ones, so that for any two places the one is once hostile where the other is not.

    Every setting of random numbers meets all kinds in one order, and at least one set of hostile rows and the others.
    """
    generator = torch.Generator().manual_seed(seed)
    settings = list(pool.settings)

    def ordinary(number: int, setting: str) -> list[Alone]:
        given = pool.settings[setting]
        order = torch.cat([torch.randperm(len(given), generator=generator) for _ in range(number)])
        return [given[place] for place in order[:number].tolist()]

    if count == 1:
        taken = [(name, given if name == settings[0] else given[:3]) for name, given in pool.settings.items()]
        return [_assembly([alone, alone], name) for name, given in taken for alone in given]
    found = [_assembly(_base(pool.ordinary, count + 1), settings[0])]
    found += [_assembly(ordinary(count + 1, name), name) for name in settings]
    found.append(_assembly([pool.ordinary[-1]] * (count + 1), settings[0]))
    sets = row_sets(count)
    for number in range(len(sets) if len(settings) == 1 else max(len(sets), 2 * len(settings))):
        name = settings[(number // 2 + seed) % len(settings)]
        found.append(_among_hostile(pool, ordinary(count + 1, name), sets[number % len(sets)], number, name))
    return found


def _base(ordinary: Sequence[Alone], count: int) -> list[Alone]:
    return [ordinary[place % min(4, len(ordinary))] for place in range(count)]


def base_batch(ordinary: Sequence[Alone], count: int) -> Any:
    """Return the batch of `count` rows for which the first path is certified."""
    return joined([alone.row for alone in _base(ordinary, count)])


def _assembly(alones: Sequence[Alone], setting: str) -> Assembly:
    rows = [alone.row for alone in alones]
    numbers = [alone.number for alone in alones[:-1]]
    return Assembly(
        batch=joined(rows[:-1]), longer=joined(rows), alones=list(alones[:-1]), numbers=numbers, setting=setting
    )


def _among_hostile(pool: Pool, alones: list[Alone], hostile: Tensor, number: int, setting: str) -> Assembly:
    """Return ordinary rows with hostile ones at some places.

    Where no hostile row has floats, what these places look up is poisoned; rows of large integers stand there in one
    half of the batches, for they may take another path.
    """
    rows = [alone.row for alone in alones]
    numbers = [alone.number for alone in alones[:-1]]
    floats = any(has_floats(row) for row in pool.hostile)
    if pool.hostile and (floats or number % 4 in (0, 3)):
        for place in hostile.nonzero().squeeze(1).tolist():
            rows[place] = pool.hostile[(place + number) % len(pool.hostile)]
            numbers[place] = _HOSTILE + place
    poison = None if floats else (hostile, (torch.nan, torch.inf, 1e6)[number % 3])
    kept = [None if own else alone for own, alone in zip(hostile.tolist(), alones[:-1], strict=True)]
    return Assembly(
        batch=joined(rows[:-1]), longer=joined(rows), alones=kept, numbers=numbers, setting=setting, poison=poison
    )
