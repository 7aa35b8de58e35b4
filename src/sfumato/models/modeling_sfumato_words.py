"""A small text encoder as a class of transformers, in one file that needs nothing but transformers.

transformers' BERT, read out as the mean over a text's own tokens instead of through a pooler on the first: to gather a
text in one place has to be learned, which a few ten thousand noisy records hardly allow. An export copies this file
beside the weights; importing it there makes the class known, so that the export loads without sfumato (see
`modeling_sfumato_stem`).
"""

from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModel, BertConfig, BertModel
from transformers.modeling_outputs import BaseModelOutputWithPooling


class WordsConfig(BertConfig):
    """The configuration of a BERT."""

    model_type = "sfumato_words"


class WordsModel(BertModel):
    """Ids and mask (N, L) to tokens (N, L, D); `pooler_output` (N, D) is the mean of those that the mask keeps."""

    config_class = WordsConfig

    def __init__(self, config: WordsConfig) -> None:
        super().__init__(config, add_pooling_layer=False)

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, input_ids: Tensor, attention_mask: Tensor | None = None, **rest: Any
    ) -> BaseModelOutputWithPooling:
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        rest["return_dict"] = True
        encode: Any = super().forward
        tokens: Tensor = encode(input_ids=input_ids, attention_mask=attention_mask, **rest).last_hidden_state
        kept = attention_mask.to(tokens.dtype).unsqueeze(2)
        mean = (tokens * kept).sum(1) / kept.sum(1).clamp(min=1)  # a text of padding alone gives zero
        return BaseModelOutputWithPooling(last_hidden_state=tokens, pooler_output=mean)


AutoConfig.register(WordsConfig.model_type, WordsConfig, exist_ok=True)
AutoModel.register(WordsConfig, WordsModel, exist_ok=True)
WordsConfig.register_for_auto_class()
WordsModel.register_for_auto_class("AutoModel")
