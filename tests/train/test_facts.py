"""The facts of a card: all numbers from the ledger, nothing claimed that is not proved."""

import pytest
import torch
from tests.train.case import STEPS, Records, Run, loss_fn, make_model, make_plan

import sfumato as sf
from sfumato.base import BadInput, Refused, ledger
from sfumato.report import build
from sfumato.train import PrivateGradients, card_facts, loader, planned_facts, record_look

WORDS = {
    "record": "one row",
    "owner_column": None,
    "public": {"vocabulary": "none", "normalisation": "none", "initialisation": "random"},
    "left_out": {"tuning": "none", "evaluation": "none", "who_sees_what": "export/ is public"},
}


def _facts(out, **changes):
    return card_facts(out, **{**WORDS, **changes})


def test_a_whole_run_states_its_plans_epsilon(tmp_path):
    with Run(tmp_path, options={}) as run:
        run.train()
    facts = _facts(tmp_path)
    assert facts["epsilon"] == facts["epsilon_pld"] == pytest.approx(run.plan.epsilon())
    assert facts["epsilon_rdp"] == pytest.approx(run.plan.epsilon(accountant="rdp"))
    assert (facts["steps_executed"], facts["steps_charged"], facts["attempts"]) == (STEPS, STEPS, 1)
    assert facts["public"] == {**WORDS["public"], "num_records": 60, "seed": "secret"}
    card = build(facts)
    assert card["stamps"] == []


def test_an_early_stop_is_charged_to_the_end_of_its_plan(tmp_path):
    with Run(tmp_path, options={}) as run:
        run.train(until=3)
    assert _facts(tmp_path)["epsilon"] == pytest.approx(run.plan.epsilon())
    public = _facts(tmp_path, stop_was_public=True)
    assert public["epsilon"] == pytest.approx(run.plan.epsilon(steps=3))
    assert (public["steps_executed"], public["steps_charged"]) == (3, 3)


def test_every_attempt_is_charged(tmp_path):
    """Two attempts under different noise: neither plan's own epsilon, but that of both together."""
    other = make_plan(noise_multiplier=2.0)
    with Run(tmp_path, options={}) as run:
        run.train(until=4)
    with Run(tmp_path, plan=other, options={"accept_new_attempt": True}) as run:
        run.train()
        both = run.private.epsilon
    facts = _facts(tmp_path)
    assert facts["attempts"] == 2
    assert facts["steps_by_attempt"] == {"0": 4, "1": STEPS}
    assert facts["epsilon"] == pytest.approx(both, rel=1e-6)
    assert max(make_plan().epsilon(steps=4), other.epsilon()) < facts["epsilon"] < make_plan().epsilon(steps=4 + STEPS)
    assert build(facts)["steps_executed"] == 4 + STEPS


def test_a_public_seed_is_stamped(tmp_path):
    with Run(tmp_path) as run:
        run.train(until=1)
    assert any("NOT PRIVATE" in stamp for stamp in build(_facts(tmp_path))["stamps"])


def test_a_revealed_run_is_stamped(tmp_path):
    with Run(tmp_path, options={"reveal": "debug"}) as run:
        run.train(until=1)
    with Run(tmp_path, options={}) as run:
        run.train(until=2)
    card = build(_facts(tmp_path))
    assert any("revealed" in stamp or "shown" in stamp for stamp in card["stamps"])
    assert card["looks"] == [{"what": "debug revealed"}]


@pytest.mark.parametrize(
    ("plan", "stamp"),
    [
        (make_plan(is_simulation=True), "simulation"),
        (make_plan(noise_multiplier=0.0), "no noise"),
        (make_plan(unit=sf.Conjectured(rule="mine", presence=1.0, swap=2.0)), "mine"),
    ],
    ids=["simulation", "noiseless", "conjectured"],
)
def test_what_is_not_proved_is_stamped_and_has_no_epsilon(tmp_path, plan, stamp):
    rule = {"clip_factor": torch.ones_like} if isinstance(plan.unit, sf.Conjectured) else {}
    with PrivateGradients(make_model(), loss_fn, plan, out=tmp_path, **rule) as private:
        private.backward(*next(iter(loader(Records(), private, micro_batch_size=4))))
    facts = _facts(tmp_path)
    assert facts["epsilon"] is None
    card = build(facts)
    assert any(stamp in text for text in card["stamps"])
    assert "recognise" not in card["sentence"]
    assert "epsilon_pld" not in card or card["epsilon_pld"] is None


def test_declared_batches_are_stamped(tmp_path):
    with Run(tmp_path, options={}) as run:
        run.private.declare_batches("my own sampler")
        run.private.backward(0, [])
    assert any("not drawn by sfumato.loader" in stamp for stamp in build(_facts(tmp_path))["stamps"])


@pytest.mark.parametrize("change", ["relation", "record"])
def test_attempts_with_different_claims_have_no_common_epsilon(tmp_path, change):
    with Run(tmp_path, options={}) as run:
        run.train(until=1)
    changes = {"plan": make_plan(relation="replace_one")} if change == "relation" else {}
    if change == "record":
        changes = {"dataset": Records(owners=[[i] for i in range(60)])}
    with Run(tmp_path, options={"accept_new_attempt": True}, **changes) as run:
        run.train(until=1)
        with pytest.raises(Refused, match="no common epsilon"):
            _ = run.private.epsilon
    assert _facts(tmp_path)["epsilon"] is None


def test_a_hidden_number_of_records_stays_hidden(tmp_path):
    plan = make_plan(sampler=sf.Poisson(sampling_prob=0.2, expected_batch_size=10))
    with Run(tmp_path, plan=plan, options={}) as run:
        run.train(until=1)
    facts = _facts(tmp_path)
    assert facts["public"]["num_records"] is None
    assert "60" not in str({key: value for key, value in facts.items() if key != "ledger_head" and key != "versions"})
    assert 60 not in ledger.read(run.private.folder.ledger).attempts[0].fields.values()
    with Run(tmp_path, plan=plan, options={}, dataset=Records(name="61 rows")) as run, pytest.raises(BadInput) as error:
        run.loader()
    assert "data.name: changed" in str(error.value)
    assert "61" not in str(error.value)


def test_a_look_from_elsewhere_is_on_the_card(tmp_path):
    record_look(tmp_path, "simulation", steps=100, noise_multiplier=0.1)
    with Run(tmp_path, options={}) as run:
        run.train(until=1)
        with pytest.raises(BadInput, match="already open"):
            record_look(tmp_path, "another")
    looks = build(_facts(tmp_path))["looks"]
    assert looks == [{"what": "simulation", "steps": 100, "noise_multiplier": 0.1}]


def test_a_folder_without_a_run(tmp_path):
    with pytest.raises(BadInput, match="no ledger"):
        _facts(tmp_path)
    with Run(tmp_path):
        pass
    with pytest.raises(BadInput, match="nothing was trained"):
        _facts(tmp_path)


TIGHT = sf.Poisson(num_records=60, expected_batch_size=16, cap=1)
UNCLAIMABLE = {
    "cap": {"sampler": TIGHT},
    "cap under replace-one": {"sampler": TIGHT, "relation": "replace_one", "delta": 1e-18},
    "delta": {"delta": 1e-18},
    "noise": {"noise_multiplier": 0.001, "sampler": sf.Poisson(num_records=60, expected_batch_size=60)},
}


@pytest.mark.parametrize("case", UNCLAIMABLE)
def test_what_its_card_cannot_state_is_refused_before_the_first_step(case, tmp_path):
    with Run(tmp_path, plan=make_plan(**UNCLAIMABLE[case]), options={}) as run:
        with pytest.raises(Refused, match=r"raise (the cap|delta|it)"):
            run.loader()
        history = ledger.read(tmp_path / "private" / "ledger.jsonl")
        assert not history.steps
        assert not history.attempts


def test_a_run_that_claims_nothing_is_not_refused(tmp_path):
    """Its micro-batches are drawn elsewhere, or there is no noise to speak of: the card is stamped, and whole."""
    with Run(tmp_path / "declared", plan=make_plan(sampler=TIGHT), options={}) as run:
        run.private.declare_batches("mine")
    for noise in (0.0, 1e-9):
        out = tmp_path / str(noise)
        with Run(out, plan=make_plan(noise_multiplier=noise), options={}) as run:
            run.train()
        card = build(_facts(out))
        assert card["epsilon"] is card["epsilon_pld"] is card["epsilon_rdp"] is None
        assert any("NOT PRIVATE" in stamp for stamp in card["stamps"])


def test_what_was_spent_has_a_card_whatever_the_accountant_says(tmp_path, monkeypatch):
    with Run(tmp_path, options={}) as run:
        run.train()

    def refuse(*_, **__):
        raise Refused("no figure for this: raise delta.")

    monkeypatch.setattr("sfumato.accounting.epsilon", refuse)
    card = build(_facts(tmp_path))
    assert card["stamps"] == ["NOT PROVED: no figure for this: raise delta."]
    assert card["epsilon"] is card["epsilon_pld"] is card["max_true_positive_rate"] is None


def test_the_rehearsed_card_is_the_card(tmp_path):
    with Run(tmp_path, options={}) as run:
        run.train()
    whole, planned = _facts(tmp_path), planned_facts(run.plan, **WORDS)
    of_the_ledger = {"attempts", "steps_by_attempt", "ledger_head", "versions"}
    assert set(whole) == set(planned)
    assert {k: v for k, v in whole.items() if k not in of_the_ledger} == {
        k: v for k, v in planned.items() if k not in of_the_ledger
    }
