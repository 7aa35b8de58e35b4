"""Dual encoders that leave the house embed elsewhere as they do here."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import open_clip
import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.models.duals import OPEN_CLIP, TEXTS, batch_of, started, words, write, write_open_clip
from transformers import AutoImageProcessor

from sfumato.base import BadInput
from sfumato.models import StartedTowers, Tokenizer, Towers, export_dual, load_dual, start_dual

KINDS = ("micro", "clip", "siglip", "vit-bert", "open_clip")

# Runs with no sfumato on the path: reads the folders, writes the embeddings that the libraries give.
ELSEWHERE = """
import pathlib, sys, warnings
warnings.simplefilter("error")
sys.modules["sfumato"] = None  # importing it raises
import torch, transformers
from safetensors.torch import load_file, save_file

CLASSES = {"clip": "CLIPModel", "siglip": "SiglipModel"}
for folder in map(pathlib.Path, sys.argv[1:]):
    data = load_file(folder / "inputs.safetensors")
    pixels, ids = data["pixel_values"], data["input_ids"]
    export = folder / "export"
    if folder.name == "open_clip":
        import open_clip
        model = open_clip.create_model(f"local-dir:{export}").eval()
        texts = open_clip.get_tokenizer(f"local-dir:{export}")((folder / "texts.txt").read_text().split("\\n"))
        assert (texts == ids).all()
        with torch.no_grad():
            out = {"u": model.encode_image(pixels, normalize=True), "v": model.encode_text(ids, normalize=True)}
    else:
        if folder.name == "micro":  # the classes travel with their weights
            sys.path.insert(0, str(export))
            import modeling_sfumato_stem, modeling_sfumato_words
        kind = getattr(transformers, CLASSES.get(folder.name, "VisionTextDualEncoderModel"))
        model, report = kind.from_pretrained(export, output_loading_info=True)
        assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), report
        masks = {} if folder.name in CLASSES else {"attention_mask": (ids != 0).long()}
        transformers.AutoTokenizer.from_pretrained(export)
        with torch.no_grad():
            found = model.eval()(pixel_values=pixels, input_ids=ids, **masks)
        out = {"u": found.image_embeds, "v": found.text_embeds}
    save_file({name: tensor.contiguous() for name, tensor in out.items()}, folder / "outputs.safetensors")
"""


def moved(made: StartedTowers) -> StartedTowers:
    """As after some training."""
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for param in made.model.parameters():
            param.add_(0.02 * torch.randn(param.shape, generator=generator))
    return made


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    """kind -> (folder of the export, what was started, inputs)."""
    root, found = tmp_path_factory.mktemp("exports"), {}
    for kind in KINDS:
        made = moved(started(kind, root / f"{kind}-source"))
        (root / kind).mkdir()
        assert made.tokenizer is not None
        export_dual(made.model, made.embed, made.tokenizer, made.preprocess, root / kind / "export")
        batch = batch_of(made)
        save_file(batch, root / kind / "inputs.safetensors")
        (root / kind / "texts.txt").write_text("\n".join(TEXTS))
        found[kind] = (root / kind / "export", made, batch)
    return found


def test_without_sfumato_it_embeds_the_same(exports) -> None:
    folders = [str(folder.parent) for folder, *_ in exports.values()]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, *folders], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    for folder, made, batch in exports.values():
        found = load_file(folder.parent / "outputs.safetensors")
        made.model.eval()
        with torch.no_grad():
            u, v = made.embed(made.model, batch)
        torch.testing.assert_close(found["u"], u, rtol=0, atol=2e-6)
        torch.testing.assert_close(found["v"], v, rtol=0, atol=2e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_read_back_it_is_the_same(kind: str, exports) -> None:
    folder, made, batch = exports[kind]
    loaded = load_dual(folder)
    assert not loaded.model.training
    assert loaded.embed == made.embed
    assert loaded.preprocess == made.preprocess
    assert loaded.tokenizer is not None
    assert loaded.tokenizer.digest == made.tokenizer.digest
    made.model.eval()
    with torch.no_grad():
        for found, want in zip(loaded.embed(loaded.model, batch), made.embed(made.model, batch), strict=True):
            assert torch.equal(found, want)


@pytest.mark.parametrize("kind", KINDS)
def test_an_export_of_what_was_loaded_is_the_same_folder(kind: str, exports, tmp_path) -> None:
    folder, *_ = exports[kind]
    loaded = load_dual(folder)
    assert loaded.tokenizer is not None
    again = export_dual(loaded.model, loaded.embed, loaded.tokenizer, loaded.preprocess, tmp_path / "again")
    names = sorted(file.name for file in folder.iterdir())
    assert sorted(file.name for file in again.iterdir()) == names
    for name in set(names) - {"tokenizer_config.json", "config.json"}:
        assert (again / name).read_bytes() == (folder / name).read_bytes(), name


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_tells_no_path_of_this_machine(kind: str, exports, tmp_path) -> None:
    folder, *_ = exports[kind]
    loaded = load_dual(folder)
    assert loaded.tokenizer is not None
    again = export_dual(loaded.model, loaded.embed, loaded.tokenizer, loaded.preprocess, tmp_path / "again")
    for written in (folder, again):
        for file in written.iterdir():
            content = file.read_bytes()
            for private in (str(folder.parent.parent), str(tmp_path), os.path.expanduser("~") + "/"):
                assert private.encode() not in content, (file.name, private)
            assert file.stat().st_mode & 0o044


def test_what_a_folder_holds(exports) -> None:
    shared = {"tokenizer.json", "tokenizer_config.json", "preprocessor_config.json"}
    plain = shared | {"config.json", "model.safetensors"}
    names = {kind: {file.name for file in folder.iterdir()} for kind, (folder, *_) in exports.items()}
    assert names["clip"] == names["siglip"] == names["vit-bert"] == plain
    assert names["micro"] == plain | {"modeling_sfumato_stem.py", "modeling_sfumato_words.py"}
    assert names["open_clip"] == shared | {"open_clip_config.json", "open_clip_model.safetensors"}


def test_the_normalisation_travels(exports, tmp_path) -> None:
    _, made, _ = exports["open_clip"]
    preprocess = {"image_size": 32, "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "channels": 3}
    folder = export_dual(made.model, made.embed, made.tokenizer, preprocess, tmp_path / "x")
    assert load_dual(folder).preprocess == preprocess
    assert list(AutoImageProcessor.from_pretrained(folder).image_mean) == [0.1, 0.2, 0.3]
    model = open_clip.create_model(f"local-dir:{folder}")
    assert model.visual.preprocess_cfg["std"] == [0.4, 0.5, 0.6]
    assert model.visual.preprocess_cfg["size"] == (32, 32)


def test_a_failed_export_leaves_the_old_folder_and_no_other(exports, tmp_path) -> None:
    _, made, _ = exports["micro"]
    folder = export_dual(made.model, made.embed, made.tokenizer, made.preprocess, tmp_path / "x")
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    with pytest.raises(BadInput, match="lacks mean"):
        export_dual(
            moved(made).model, made.embed, made.tokenizer, {"image_size": 32, "std": [1], "channels": 3}, folder
        )
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    assert [file.name for file in tmp_path.iterdir()] == ["x"]


def test_what_is_no_dual_encoder_is_named(exports, tmp_path) -> None:
    folder, made, _ = exports["micro"]
    with pytest.raises(BadInput, match="not towers of kind 'pair'"):
        export_dual(made.model, Towers("pair", 0), made.tokenizer, made.preprocess, tmp_path / "x")
    with pytest.raises(BadInput, match="no checkpoint folder"):
        load_dual(tmp_path / "nothing")
    broken = Path(shutil.copytree(folder, tmp_path / "broken"))
    config = json.loads((folder / "config.json").read_text()) | {"model_type": "vit"}
    (broken / "config.json").write_text(json.dumps(config))
    with pytest.raises(BadInput, match="holds a 'vit', which is no dual encoder"):
        load_dual(broken)


def test_the_pooled_head_of_a_checkpoint_is_not_drawn_at_random(tmp_path) -> None:
    """A whole model is read out through its text tower's pooler: a file without it is no whole model."""
    folder = write("vit-bert", tmp_path)
    weights = load_file(folder / "model.safetensors")
    del weights["text_model.pooler.dense.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BadInput, match=r"lack text_model\.pooler\.dense\.weight"):
        start_dual(init=folder, tokenizer=words(), image_size=32, max_tokens=8, seed=0)


def test_a_random_open_clip_of_other_size_and_length_travels(tmp_path) -> None:
    name, _ = write_open_clip(tmp_path, "small-travels", OPEN_CLIP)
    tokenizer = Tokenizer.of_open_clip()
    made = start_dual(init=f"open_clip:{name}", tokenizer=tokenizer, image_size=16, max_tokens=9, seed=0)
    folder = export_dual(made.model, made.embed, tokenizer, made.preprocess, tmp_path / "x")
    loaded = load_dual(folder)
    assert loaded.preprocess["image_size"] == 16
    ids = tokenizer.encode_texts(TEXTS, 9)
    made.model.eval()
    with torch.no_grad():
        assert torch.equal(loaded.embed.texts(loaded.model, ids), made.embed.texts(made.model, ids))
