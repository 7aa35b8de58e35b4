"""The fingerprint: what changes it, what does not, and how differences are told."""

import functools

import pytest
import torch
from tests.train.case import Records, loss_fn, make_model
from torch import nn
from transformers import ViTConfig, ViTModel

from sfumato.base import BadInput
from sfumato.train import fingerprint as fp
from sfumato.train import warmup_cosine


def _model(name="0.weight", train=True):
    model = make_model()
    dict(model.named_parameters())[name].requires_grad_(train)
    return model


def test_model_fields_name_what_changed():
    frozen = fp.differences(fp.model_fields(_model()), fp.model_fields(_model(train=False)))
    assert frozen == ["model.parameters.0.weight: float32 8x6 trained -> float32 8x6 frozen"]
    dropout = fp.differences(fp.model_fields(make_model()), fp.model_fields(make_model(dropout=0.5)))
    assert [line.split(":")[0] for line in dropout] == ["model.structure"]
    assert fp.differences(fp.model_fields(make_model(seed=1)), fp.model_fields(make_model(seed=2))) == []


def test_the_configuration_of_a_transformers_model_counts():
    def fields(**changes):
        config = ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, **changes)
        return fp.model_fields(ViTModel(config, add_pooling_layer=False))

    assert fields() == fields()
    assert fields(name_or_path="somewhere") == fields()
    assert fields(initializer_range=0.03) != fields()


def test_optimizer_fields_are_those_at_the_start():
    def optimizer(**changes):
        return torch.optim.AdamW(make_model().parameters(), **{"lr": 0.1, "betas": (0.9, 0.95), **changes})

    plain, scheduled = optimizer(), optimizer()
    scheduler = warmup_cosine(scheduled, warmup_steps=5, total_steps=9)
    assert fp.optimizer_fields(scheduled) == fp.optimizer_fields(plain)
    scheduled.step()
    scheduler.step()
    assert fp.optimizer_fields(scheduled) == fp.optimizer_fields(plain)
    for change in ({"lr": 0.2}, {"betas": (0.9, 0.99)}, {"weight_decay": 0.3}):
        assert fp.optimizer_fields(optimizer(**change)) != fp.optimizer_fields(plain)
    other = fp.differences(
        fp.optimizer_fields(plain), fp.optimizer_fields(torch.optim.SGD([nn.Parameter(torch.ones(1))]))
    )
    assert other[0] == "optimizer.class: torch.optim.adamw.AdamW -> torch.optim.sgd.SGD"


def test_functions_are_told_apart_by_name_source_and_bound_arguments():
    def other(model, batch):
        return loss_fn(model, batch)

    class Callable:
        def __call__(self, model, batch):
            return None

    kinds = [loss_fn, other, Callable(), functools.partial(loss_fn, 1), functools.partial(loss_fn, batch=2)]
    fields = [fp.function_fields("loss", kind) for kind in kinds]
    assert len({fp.digest(f) for f in fields}) == len(kinds)
    assert fields == [fp.function_fields("loss", kind) for kind in kinds]
    assert fp.function_fields("loss", torch.ones_like)["loss.source"] == "not readable"
    assert fp.function_fields("loss", None) == {}


def test_functions_with_one_name_and_another_source_differ():
    def make(text):
        scope: dict = {}
        exec(compile(text, "<made>", "exec"), scope)
        return scope["f"]

    one = fp.function_fields("loss", make("def f(m, b): return 1"))
    two = fp.function_fields("loss", make("def f(m, b): return 2"))
    assert one != two


def test_what_a_loss_closes_over_or_holds_counts():
    def make(tau):
        return lambda model, batch: loss_fn(model, batch) / tau

    class Scaled(nn.Module):
        def __init__(self, tau):
            super().__init__()
            self.tau = tau

    assert fp.function_fields("loss", make(0.5)) != fp.function_fields("loss", make(0.2))
    assert fp.function_fields("loss", Scaled(0.5)) != fp.function_fields("loss", Scaled(0.2))
    assert fp.function_fields("loss", Scaled(0.5)) == fp.function_fields("loss", Scaled(0.5).eval())


def test_data_fields():
    assert fp.data_fields(Records(), 60) == {"data.name": "records", "data.num_records": 60, "data.record": "row"}
    assert "data.num_records" not in fp.data_fields(Records(), None)  # hidden
    assert fp.data_fields([1, 2], 2)["data.class"] == "builtins.list"
    assert fp.data_fields(Records(owners=[[0]]), 1)["data.record"] == "owner"
    bad = Records()
    bad.manifest = lambda: ["not a dict"]
    with pytest.raises(BadInput, match="manifest"):
        fp.data_fields(bad, 60)


def test_threads_and_world_are_fields():
    fields = fp.surrounding_fields(torch.device("cpu"), 2)
    assert fields["world_size"] == 2
    assert fields["threads"] == torch.get_num_threads()
    assert fields["device"] == "cpu"


def test_many_differences_are_cut_short():
    old, new = {f"f{i:02}": 0 for i in range(20)}, {f"f{i:02}": 1 for i in range(20)}
    told = fp.differences(old, new)
    assert len(told) == 13
    assert told[-1] == "and 8 more"


def test_hidden_values_are_not_told():
    assert fp.differences({"data.n": 7}, {"data.n": 8}, hidden="data.") == ["data.n: changed"]


def test_flatten_keeps_json_and_names_the_rest():
    fields = fp.flatten("a", {"b": (1, 2), "c": {"d": None}, "e": torch.float32, "f": float("nan")})
    assert fields == {"a.b": [1, 2], "a.c.d": None, "a.e": "torch.float32", "a.f": "nan"}
