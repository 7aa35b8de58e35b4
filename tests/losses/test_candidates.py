"""Scores of pictures against candidate captions, exact and along the tree."""

import pytest
import torch

from sfumato.base import BadInput
from sfumato.losses import caption_loss, prefix_tree, score
from sfumato.models import build

V, L, K, N = 30, 8, 40, 6
END = 3


@pytest.fixture(scope="module")
def model():
    model = build("micro", vocab_size=V, image_size=28, max_tokens=L, channels=1, seed=1).eval()
    with torch.no_grad():  # make pictures and words matter: at initialisation every caption is nearly as likely
        model.decoder.lm_head.weight.mul_(4)
        model.encoder.layernorm.weight.mul_(20)
    return model


@pytest.fixture(scope="module")
def pixels() -> torch.Tensor:
    return 3 * torch.randn(N, 1, 28, 28, generator=torch.Generator().manual_seed(5))


@pytest.fixture(scope="module")
def candidates() -> torch.Tensor:
    """Distinct captions of 1 to 5 words out of four, so that the tree branches at every level."""
    generator = torch.Generator().manual_seed(6)
    seen: set[tuple[int, ...]] = set()
    while len(seen) < K:
        length = int(torch.randint(1, 6, (), generator=generator))
        seen.add(tuple(torch.randint(5, 9, (length,), generator=generator).tolist()))
    rows = torch.full((K, L), -100)
    for row, words in enumerate(sorted(seen)):
        rows[row, : len(words) + 1] = torch.tensor([*words, END])
    return rows


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_score_is_the_loss_of_every_pair(model, pixels, candidates, reduction) -> None:
    table = score(model, pixels, candidates, reduction=reduction)
    assert table.shape == (N, K)
    with torch.no_grad():
        for k in (0, 7, K - 1):
            loss = caption_loss(model, {"pixel_values": pixels, "labels": candidates[k].expand(N, L)})
            factor = 1 if reduction == "mean" else int((candidates[k] != -100).sum())
            torch.testing.assert_close(table[:, k], -loss * factor, rtol=1e-5, atol=1e-5)


def test_scores_do_not_depend_on_the_chunks(model, pixels, candidates, monkeypatch) -> None:
    whole, tree = score(model, pixels, candidates), prefix_tree(model, pixels, candidates, beam=3)
    monkeypatch.setattr("sfumato.losses.candidates._LOGITS_PER_CALL", 7 * V * L)
    torch.testing.assert_close(score(model, pixels, candidates), whole, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(prefix_tree(model, pixels, candidates, beam=3), tree, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_a_wide_beam_is_exact(model, pixels, candidates, reduction) -> None:
    exact = score(model, pixels, candidates, reduction=reduction)
    assert torch.equal(prefix_tree(model, pixels, candidates, beam=K, reduction=reduction), exact)


@pytest.mark.parametrize("beam", [1, 2, 5, 17])
def test_the_tree_keeps_the_best_prefixes(model, pixels, candidates, beam: int) -> None:
    """Against a plain search, one picture at a time, with every prefix scored from scratch."""
    table = prefix_tree(model, pixels, candidates, beam=beam, reduction="sum")
    exact = score(model, pixels, candidates, reduction="sum")
    rows = [tuple(row.tolist()) for row in candidates]
    for n in range(N):
        alive = {()}
        for length in range(1, L + 1):
            children = sorted({row[:length] for row in rows if row[: length - 1] in alive})
            if len(children) > beam:
                ids = torch.tensor([[*child, *[-100] * (L - length)] for child in children])
                sums = score(model, pixels[n : n + 1], ids, reduction="sum")[0]
                children = [children[i] for i in sums.topk(beam).indices]
            alive = set(children)
        reached = torch.tensor([row in alive for row in rows])
        assert torch.equal(table[n].isfinite(), reached)
        torch.testing.assert_close(table[n][reached], exact[n][reached], rtol=1e-5, atol=1e-5)
        assert reached.sum() <= beam


def test_a_narrow_beam_can_lose_the_best(model, pixels, candidates) -> None:
    """It is greedy, as documented: this would fail if the beam were ignored."""
    exact, narrow = score(model, pixels, candidates), prefix_tree(model, pixels, candidates, beam=1)
    assert (exact.argmax(1) != narrow.argmax(1)).any()


def test_a_single_candidate_and_equal_candidates(model, pixels, candidates) -> None:
    one = candidates[:1]
    torch.testing.assert_close(prefix_tree(model, pixels, one, beam=1), score(model, pixels, one))
    twice = prefix_tree(model, pixels, one.repeat(2, 1), beam=1)
    assert torch.equal(twice[:, 0], twice[:, 1])


def test_what_is_refused(model, pixels, candidates) -> None:
    with pytest.raises(BadInput, match="at least one token"):
        score(model, pixels, torch.full((2, L), -100))
    with pytest.raises(BadInput, match="beam"):
        prefix_tree(model, pixels, candidates, beam=0)
    model.train()
    with pytest.raises(BadInput, match="evaluation mode"):
        score(model, pixels, candidates)
    model.eval()
