"""What clipping all pairs costs: Logit-DP's published recipe, this library's one pass, and a non-private step.

    python benchmarks/pairs.py                      # small conv net, d = 8 and 64, n = 32 .. 1024; ResNet18 at n = 256
    python benchmarks/pairs.py --sizes 32 64 --repeats 3 --no-write

The recipe (arXiv 2310.03104, Algorithm 1): the gradient of every similarity, all n^2 of them materialised by vmap in
chunks, each scaled to norm B, weighted by the loss's derivative, added up. All sides make the same sum from the same
weights; the largest relative difference is printed. One measurement is the median of `repeats` runs that take turns in
one process, the recipe once where it takes longer than a minute; peak memory is the growth of a fresh process.

The floor counts backward passes: the Gram matrices of both views need min(n, d) passes each through the activations.
"""

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from sfumato import models, norms
from sfumato.losses import Contrast
from sfumato.losses.contrast import cosines, weights
from sfumato.mechanisms import Computation, MeasureOnce, MicroBatch, Ranks, clip_batch, clip_factor
from sfumato.plan import InfoNCE, Pair

RESULTS = Path(__file__).parent / "results" / "pairs.json"
CLIP_NORM, LOSS = 1.0, InfoNCE(temperature=0.2, symmetric=False)
RECIPE_AT_MOST = 256
LONG = 60.0
SIDES = ("non-private", "private, exact", "private, bound", "recipe")


class Bench:
    """One encoder, one batch of two views, and the sides that compute on them."""

    def __init__(self, encoder: str, n: int, dim: int, micro_batch_size: int) -> None:
        torch.manual_seed(0)
        make = {"small_conv": models.small_conv, "resnet18": models.resnet18_plain}[encoder]
        self.model: nn.Module = make(channels=3, dim=dim, seed=0)
        self.views = {"pixel_values": torch.randn(n, 3, 32, 32), "other_view": torch.randn(n, 3, 32, 32)}
        self.n, self.embed, self.micro_batch_size = n, models.TwoViews(), micro_batch_size

    def sides(self) -> dict[str, Callable[[], Tensor]]:
        """Each returns its summed gradient, flat."""
        return {
            "non-private": self.non_private,
            "private, exact": self.private("exact"),
            "private, bound": self.private("bound"),
            "recipe": self.recipe,
        }

    def non_private(self) -> Tensor:
        """Forward, loss of all rows, backward."""
        u, v = self.embed(self.model, self.views)
        logits = u @ v.mT / LOSS.temperature
        loss = (logits.logsumexp(1) - logits.diagonal()).sum()
        return flat(torch.autograd.grad(loss, list(self.model.parameters())))

    def private(self, kind: Any) -> Callable[[], Tensor]:
        """The pair unit as training calls it, micro-batch by micro-batch."""
        unit = Pair(clip_norm=CLIP_NORM, loss=LOSS, norms=kind, largest_draw=self.n)
        computation = Computation(model=self.model, loss_fn=Contrast(embed=self.embed, loss=LOSS))
        measure, size = MeasureOnce(computation), min(self.micro_batch_size, self.n)
        micro_batches = [
            MicroBatch(
                batch={name: x[start : start + size] for name, x in self.views.items()},
                valid=torch.ones(size, dtype=torch.bool),
            )
            for start in range(0, self.n, size)
        ]

        def step() -> Tensor:
            clipped, _ = clip_batch(
                computation,
                micro_batches,
                unit,
                clip_factor(unit),
                measure=measure,
                reduce=lambda total: None,
                reseed=lambda chunk: None,
                ranks=Ranks(),
                batch_size=float(self.n),
            )
            return flat(list(clipped.sums.values()))

        return step

    def recipe(self) -> Tensor:
        """All n^2 gradients of similarities, in chunks of pairs, clipped one by one."""
        parameters = {name: p.detach() for name, p in self.model.named_parameters()}
        pictures, others = self.views["pixel_values"], self.views["other_view"]
        with torch.no_grad():
            u, v = self.embed(self.model, self.views)
            similarity = cosines(u, v)
        derivative, _ = weights(LOSS, similarity, torch.ones_like(similarity, dtype=torch.bool))

        def one(values: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
            a = nn.functional.normalize(functional_call(self.model, values, (x[None],)), dim=1)
            b = nn.functional.normalize(functional_call(self.model, values, (y[None],)), dim=1)
            return (a * b).sum()

        each = vmap(grad(one), in_dims=(None, 0, 0))
        total = {name: torch.zeros_like(p) for name, p in parameters.items()}
        chunk = max(1, (1 << 26) // sum(p.numel() for p in parameters.values()))
        chunk = min(chunk, 1024)
        rows, columns = (
            index.flatten() for index in torch.meshgrid(torch.arange(self.n), torch.arange(self.n), indexing="ij")
        )
        for i, j in zip(rows.split(chunk), columns.split(chunk), strict=True):
            found = each(parameters, pictures[i], others[j])
            lengths = torch.stack([g.flatten(1).square().sum(1) for g in found.values()]).sum(0).sqrt()
            scale = derivative[i, j] * (CLIP_NORM * (1 - 1e-3) / lengths).clamp(max=1.0)
            for name, g in found.items():
                total[name] += torch.einsum("n,n...->...", scale, g)
        return flat(list(total.values()))


def flat(tensors: Any) -> Tensor:
    """Return the tensors as one float64 vector."""
    return torch.cat([tensor.double().flatten() for tensor in tensors])


def measure(bench: Bench, names: list[str], repeats: int) -> dict[str, Any]:
    """Return median seconds of each side, ratios to non-private, and how far the sums are apart."""
    sides = {name: side for name, side in bench.sides().items() if name in names}
    results, seconds = {name: side() for name, side in sides.items() if name != "recipe"}, {name: [] for name in sides}
    for turn in range(repeats):
        for name, side in sides.items():
            if turn and name == "recipe" and seconds[name][0] > LONG:
                continue
            begun = time.perf_counter()
            results[name] = side()
            seconds[name].append(time.perf_counter() - begun)
    medians = {name: statistics.median(taken) for name, taken in seconds.items()}
    found: dict[str, Any] = {
        "seconds": medians,
        "over_non_private": {name: taken / medians["non-private"] for name, taken in medians.items()},
    }
    if "recipe" in results:
        want = results["recipe"]
        found["difference_from_recipe"] = float((results["private, exact"] - want).norm() / want.norm())
    return found


def peak(encoder: str, n: int, dim: int, micro_batch_size: int, side: str) -> float:
    """Return the growth of peak memory, in bytes, of a fresh process that runs one side twice."""
    command = [sys.executable, __file__, "--job", side, "--case", encoder, str(n), str(dim), str(micro_batch_size)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout)


def _job(side: str, case: list[str]) -> None:
    bench = Bench(case[0], *map(int, case[1:]))
    run = bench.sides()[side]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    run()
    run()
    sys.stdout.write(str(1024.0 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)))


def main() -> None:
    """Measure all cases, print a line for each, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", type=int, default=[32, 64, 128, 256, 512, 1024])
    parser.add_argument("--dims", nargs="+", type=int, default=[8, 64])
    parser.add_argument("--resnet", nargs="*", type=int, default=[256], help="sizes at which ResNet18 runs, d = 8")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--micro-batch-size", type=int, default=128)
    parser.add_argument("--no-peak", action="store_true")
    parser.add_argument("--no-write", dest="write", action="store_false", help="leave the JSON as it is")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    parser.add_argument("--case", nargs=4, help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(min(2, torch.get_num_threads()))
    if given.job:
        _job(given.job, given.case)
        return
    cases = [("small_conv", n, dim, given.micro_batch_size) for dim in given.dims for n in given.sizes]
    cases += [("resnet18", n, 8, 32) for n in given.resnet]
    rows = []
    for encoder, n, dim, size in cases:
        names = [side for side in SIDES if side != "recipe" or (n <= RECIPE_AT_MOST and encoder == "small_conv")]
        if encoder == "resnet18":
            names.remove("private, exact")  # 2 n d P numbers
        found = measure(Bench(encoder, n, dim, size), names, given.repeats if encoder == "small_conv" else 1)
        found |= {"encoder": encoder, "n": n, "dim": dim, "floor_passes": 2 * min(n, dim)}
        if not given.no_peak:
            found["peak_bytes"] = {side: peak(encoder, n, dim, size, side) for side in names}
        rows.append(found)
        sys.stdout.write(line(found) + "\n")
        sys.stdout.flush()
        if given.write:
            RESULTS.parent.mkdir(exist_ok=True)
            versions = {"python": platform.python_version(), "torch": torch.__version__, "norms": norms.__name__}
            RESULTS.write_text(json.dumps({"versions": versions, "rows": rows}, indent=1) + "\n")


def line(found: dict[str, Any]) -> str:
    """Return one case in words."""
    parts = [f"{found['encoder']:<10} n {found['n']:>4}  d {found['dim']:>3}"]
    for side, seconds in found["seconds"].items():
        megabytes = f", {found['peak_bytes'][side] / 1e6:,.0f} MB" if "peak_bytes" in found else ""
        parts.append(f"{side} {seconds:.3f} s ({found['over_non_private'][side]:.1f}x{megabytes})")
    if "difference_from_recipe" in found:
        faster = found["seconds"]["recipe"] / found["seconds"]["private, exact"]
        parts.append(f"recipe / exact {faster:.0f}x, difference {found['difference_from_recipe']:.1e}")
    return "  ".join(parts)


if __name__ == "__main__":
    main()
