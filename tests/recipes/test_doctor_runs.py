"""The doctor on runs: what they handed on is looked at as it would be trained on."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tests.models.pairs import PREPROCESS, tiny_pair
from tests.once import only_whole

from sfumato import models
from sfumato.recipes import Run, doctor_runs, dp_cap, dp_gcl, dp_vqa
from sfumato.recipes.config import write_config
from sfumato.recipes.doctor import Wish, diagnose
from sfumato.recipes.doctor_advice import fewer
from sfumato.recipes.doctor_case import Asked
from sfumato.recipes.doctor_models import open_case
from sfumato.recipes.execute import train_run
from sfumato.recipes.run import Adapter

LOOK = Wish(measure=False)


def few(run: Run, **model) -> Run:
    privacy = replace(
        run.privacy,
        epsilon=None,
        noise_multiplier=1.0,
        delta=1e-4,
        expected_batch_size=8,
        steps=1,
        views=1,
        num_groups=2,
    )
    training = replace(run.training, micro_batch_size=8, warmup_steps=0)
    if run.privacy.unit == "example":
        privacy = replace(privacy, num_groups=None)
    return replace(run, privacy=privacy, training=training, model=replace(run.model, **model))


def test_captioner_of_a_run_is_its_export(tmp_path: Path) -> None:
    train_run(few(dp_cap("shapes:40", tmp_path / "run"), size="pico", image_size=16))
    asked = Asked(model=str(tmp_path / "run"))
    case = open_case(asked)
    loaded = models.load_export(tmp_path / "run" / "export")
    assert same(case.model, loaded.model)
    assert case.image_size == 16
    found = diagnose(asked, LOOK)
    assert (found.refusal, found.unit) == (None, "example")
    assert "captioner of the run" in found.source
    assert diagnose(replace(asked, train="heads"), LOOK).seen.num_trainable < found.seen.num_trainable  # pyright: ignore[reportOptionalMemberAccess]


def test_towers_of_a_run_train_by_groups(tmp_path: Path) -> None:
    train_run(few(dp_gcl("shapes:40", tmp_path / "run"), size="micro", image_size=16))
    case = open_case(Asked(model=str(tmp_path / "run")))
    assert same(case.model, models.load_dual(tmp_path / "run" / "export").model)
    assert case.encode is not None
    found = diagnose(Asked(model=str(tmp_path / "run"), train="heads"), LOOK)
    assert (found.refusal, found.unit) == (None, "group")
    assert "Use the unit Group" in str(diagnose(Asked(model=str(tmp_path / "run"), unit="example"), LOOK).refusal)


@only_whole
def test_dp_vqa_run_keeps_its_lengths_and_can_get_an_adapter(tmp_path: Path) -> None:
    run = few(dp_vqa("shape-questions:40", tmp_path / "run"), size="micro")
    run = replace(run, asking=replace(run.asking, max_question=9, max_answer=3, image_size=16))
    train_run(run)
    folder = str(tmp_path / "run")
    case = open_case(Asked(model=folder))
    assert any("max question 9, max answer 3" in note for note in case.notes)
    assert any("max answer 5" in note for note in open_case(Asked(model=folder, max_answer=5)).notes)
    assert same(case.model, models.load_vlm(tmp_path / "run" / "export", max_question=9, max_answer=3).model)
    found = diagnose(Asked(model=folder, train="lora", adapter=Adapter(rank=1)), LOOK)
    assert (found.refusal, found.unit) == (None, "example")
    assert "vision-language model of the run" in found.source


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    theirs = dict(other.named_parameters())
    return {name for name, _ in one.named_parameters()} == set(theirs) and all(
        torch.equal(p, theirs[name]) for name, p in one.named_parameters()
    )


def test_run_that_holds_an_adapter_names_the_checkpoint_under_it(tmp_path: Path) -> None:
    run = few(dp_vqa("shape-questions", tmp_path / "run"), init="blip-folder", size=None, train="lora")
    write_config(run)
    refusal = str(diagnose(Asked(model=str(tmp_path / "run")), LOOK).refusal)
    assert "an adapter (lora) on blip-folder" in refusal


def test_run_without_an_export_is_a_sentence(tmp_path: Path) -> None:
    for run in (dp_cap("shapes", tmp_path / "a"), dp_gcl("shapes", tmp_path / "b"), dp_vqa("easy-vqa", tmp_path / "c")):
        write_config(run)
        assert "export" in str(diagnose(Asked(model=str(run.out)), LOOK).refusal)


def test_towers_of_packages_train_their_heads_last_blocks_or_lora(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = dp_gcl("shapes", tmp_path / "run")
    write_config(replace(run, model=replace(run.model, init="lit")))
    words = models.Tokenizer.from_public_text(["a red circle above two blue squares"])

    def opened(folder: Path) -> SimpleNamespace:
        model = tiny_pair(words).eval()
        embed = models.Towers(kind="pair", pad_id=model.pad_id)
        return SimpleNamespace(
            loaded=SimpleNamespace(model=model, embed=embed, tokenizer=words, preprocess=dict(PREPROCESS, channels=3))
        )

    monkeypatch.setattr(doctor_runs, "open_trained", opened)
    asked = Asked(model=str(tmp_path / "run"), train="heads", max_tokens=8)
    heads = diagnose(asked, LOOK)
    assert (heads.refusal, heads.unit) == (None, "group")
    assert {use.name for use in heads.seen.uses} == {"image_projection.weight", "text_projection.weight"}  # pyright: ignore[reportOptionalMemberAccess]
    lora = open_case(replace(asked, train="lora", adapter=Adapter(rank=2)))
    trained = {name for name, p in lora.model.named_parameters() if p.requires_grad}
    assert {name.split(".")[0] for name in trained} == {"text", "image_projection", "text_projection"}
    numbers = sum(p.numel() for p in lora.model.parameters() if p.requires_grad)
    offered = {choice.flags: choice.parameters for choice in fewer(open_case(replace(asked, train="all")))}
    assert offered["--train lora --rank 1"] * 2 - offered["--train heads"] == numbers
    assert "--train last-1" in offered
    assert "takes no frozen_dtype" in str(
        diagnose(replace(asked, train="lora", adapter=Adapter(frozen_dtype="bfloat16")), LOOK).refusal
    )
    assert "--image-size is no setting" in str(diagnose(replace(asked, image_size=99), LOOK).refusal)
