"""Every guarantee check fails where its guarantee is broken: deliberate bugs, and the checks that see them."""

import pytest
from tests.guarantees import bugs, draws, neighbours, noise, record

TABLE = [  # bug, check, why the check says it fails
    (bugs.clip_skipped, neighbours.presence, "moved by"),
    (bugs.clip_skipped, neighbours.swap, "moved by"),
    (bugs.clip_skipped, neighbours.automatic_presence, "moved by"),
    (bugs.clip_skipped, neighbours.duplicated_record, "moved by"),
    (bugs.clip_skipped, neighbours.one_more_record, "moved by"),
    (bugs.clipped_at_twice_the_norm_that_is_noised, neighbours.presence, "moved by"),
    (bugs.clipped_at_twice_the_norm_that_is_noised, neighbours.swap, "moved by"),
    (bugs.micro_batch_clipped_as_one, neighbours.presence, "moved by"),
    (bugs.a_bad_example_skips_the_step, neighbours.presence, "moved by"),
    (bugs.divided_by_the_realised_size, neighbours.presence, "moved by"),
    (bugs.padding_counts, neighbours.padding, "moved by"),
    (bugs.padding_counts, neighbours.nearly_empty_draws, "moved by"),
    (bugs.an_unreadable_row_is_replaced_by_the_next, neighbours.failing_row, "moved by"),
    (bugs.an_owner_gives_all_rows, neighbours.owner_of_several_rows, "moved by"),
    (bugs.clip_skipped, neighbours.several_rows_at_once, "moved by"),
    (bugs.rows_of_a_record_are_clipped_one_by_one, neighbours.several_rows_at_once, "moved by"),
    (bugs.empty_draws_are_skipped, neighbours.nearly_empty_draws, "every step of the plan"),
    (bugs.empty_draws_are_skipped, noise.noise_has_the_plans_scale, "every step of the plan"),
    (bugs.batches_are_shuffled, draws.draws_are_poisson, "the draw's size varies by"),
    (bugs.rows_are_drawn_and_owners_deduplicated, draws.owners_are_drawn_alike, "rows of the first owner"),
    (bugs.every_rank_draws_for_itself, draws.ranks_share_one_draw, "three shares hold"),
    (bugs.all_ranks_take_the_same, draws.ranks_share_one_draw, "three shares hold"),
    (bugs.noise_after_division, noise.noise_has_the_plans_scale, "noise is not that of the plan"),
    (bugs.one_key_for_all_parameters, noise.noise_differs_between_parameters, "noise is shared"),
    (bugs.key_forgets_the_step, noise.noise_differs_between_steps, "noise is shared"),
    (bugs.key_forgets_the_fingerprint, noise.noise_differs_between_fingerprints, "noise is shared"),
    (bugs.key_forgets_attempt_and_sum, noise.noise_differs_between_attempts, "noise is shared"),
    (bugs.key_forgets_the_sum, noise.noise_differs_when_a_copy_goes_another_way, "noise is shared"),
    (bugs.a_replay_is_known_by_its_number_alone, record.a_replay_is_the_same_or_is_charged, "another sum was released"),
    (bugs.charged_after_it_left, record.charged_before_it_leaves, "steps in the ledger"),
    (bugs.every_rank_draws_its_own_noise, record.ranks_release_the_same, "ranks release different"),
    (bugs.the_loss_is_in_the_progress, record.nothing_un_noised_is_shared, "export/ says"),
]


@pytest.mark.every(2)
@pytest.mark.parametrize(("bug", "check", "why"), TABLE, ids=lambda part: getattr(part, "__name__", ""))
def test_the_check_sees_the_bug(bug, check, why, tmp_path, monkeypatch):
    bug(monkeypatch)
    with pytest.raises(AssertionError, match=why):
        check(tmp_path)


def test_every_check_has_been_seen_to_fail():
    checks = {*neighbours.CHECKS, *draws.CHECKS, *noise.CHECKS, *record.CHECKS}
    assert checks == {check for _, check, _ in TABLE}
