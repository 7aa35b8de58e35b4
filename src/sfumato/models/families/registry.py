"""Which transformers configurations have a family, and which class of transformers is built for each."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sfumato.base import BadInput
from sfumato.models.families.blip import BlipAnswering, BlipCaptioning
from sfumato.models.families.blip2 import blip2
from sfumato.models.families.family import Family, Setup
from sfumato.models.families.git import Git
from sfumato.models.families.placeholders import Idefics, Llava, PaliGemma
from sfumato.models.families.qwen import Qwen2Vl


@dataclass(frozen=True, kw_only=True)
class Known:
    """An architecture that works: the name of its transformers class, and the maker of its family."""

    model_class: str
    make: Callable[[Setup], Family]


FAMILIES: dict[str, tuple[Known, ...]] = {
    "blip": (
        Known(model_class="BlipForQuestionAnswering", make=BlipAnswering),
        Known(model_class="BlipForConditionalGeneration", make=BlipCaptioning),
    ),
    "blip-2": (Known(model_class="Blip2ForConditionalGeneration", make=blip2),),
    "git": (Known(model_class="GitForCausalLM", make=Git),),
    "idefics3": (Known(model_class="Idefics3ForConditionalGeneration", make=Idefics),),
    "llava": (Known(model_class="LlavaForConditionalGeneration", make=Llava),),
    "paligemma": (Known(model_class="PaliGemmaForConditionalGeneration", make=PaliGemma),),
    "qwen2_vl": (Known(model_class="Qwen2VLForConditionalGeneration", make=Qwen2Vl),),
    "smolvlm": (Known(model_class="SmolVLMForConditionalGeneration", make=Idefics),),
}


def known_family(model_type: str | None, architectures: Sequence[str]) -> Known:
    """Return the family of a configuration, by its model type and the class that its weights were saved from.

    Raises:
        BadInput: there is none; the message lists those that work.
    """
    works = ", ".join(known.model_class for known in (k for kinds in FAMILIES.values() for k in kinds)) + " and CoCa"
    kinds = FAMILIES.get(model_type or "", ())
    if not kinds:
        raise BadInput(f"a model of type {model_type!r} has no family here; these work: {works}.")
    named = [known for known in kinds if known.model_class in architectures]
    if len(kinds) > 1 and not named:
        raise BadInput(
            f"a {model_type!r} model of class {', '.join(architectures) or 'unknown'} writes no answers; these work: "
            f"{works}."
        )
    return (named or list(kinds))[0]
