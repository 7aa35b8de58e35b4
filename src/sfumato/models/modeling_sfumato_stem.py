"""A small convolutional image encoder as a class of transformers, in one file that needs nothing but transformers.

An export copies this file beside the weights; importing it there makes the class known, so that the export loads
without sfumato:

    import sys; sys.path.insert(0, "runs/x/export")
    import modeling_sfumato_stem
    model = transformers.VisionEncoderDecoderModel.from_pretrained("runs/x/export")

Convolution, GroupNorm and GELU, stage after stage; no BatchNorm, which would couple the examples of a batch. Locality
comes from the convolutions and position from fixed waves: neither need be learned, which a few ten thousand noisy
records do not allow. Any picture size will do.

A token is the features of its place times each of the lowest cosines of that place. So the mean of all tokens is the
beginning of the discrete cosine transform of the feature maps: a picture's feature says what there is and roughly
where, and the decoder's attention can tell places apart.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel, initialization
from transformers.modeling_outputs import BaseModelOutputWithPooling


class StemConfig(PreTrainedConfig):
    """Stages of the encoder: `hidden_sizes`, `kernel_sizes` and `strides` have one entry each.

    `num_waves` is the number K of cosines for each axis; a token is K * K times as wide as the last stage. The first
    cosine is constant, so 1 leaves position out.
    """

    model_type = "sfumato_stem"

    def __init__(
        self,
        num_channels: int = 3,
        hidden_sizes: tuple[int, ...] = (32, 64, 64),
        kernel_sizes: tuple[int, ...] = (3, 3, 3),
        strides: tuple[int, ...] = (2, 2, 1),
        num_groups: int = 8,
        hidden_dropout_prob: float = 0.0,
        num_waves: int = 1,
        **kwargs: Any,
    ) -> None:
        self.num_channels = num_channels
        self.hidden_sizes = list(hidden_sizes)
        self.kernel_sizes = list(kernel_sizes)
        self.strides = list(strides)
        self.num_groups = num_groups
        self.hidden_dropout_prob = hidden_dropout_prob
        self.num_waves = num_waves
        super().__init__(**kwargs)
        self.hidden_size = self.hidden_sizes[-1] * num_waves**2


class StemStage(nn.Module):
    """Convolution, GroupNorm, GELU."""

    def __init__(self, config: StemConfig, stage: int) -> None:
        super().__init__()
        inputs = config.hidden_sizes[stage - 1] if stage else config.num_channels
        outputs, kernel = config.hidden_sizes[stage], config.kernel_sizes[stage]
        stride = config.strides[stage]
        self.convolution = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
        self.norm = nn.GroupNorm(config.num_groups, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.gelu(self.norm(self.convolution(x)))


class StemModel(PreTrainedModel):
    """Pictures (N, C, H, W) to tokens (N, T, K * K * D), one for each place of the last stage, which has D features.

    `pooler_output` is the mean of the tokens, (N, K * K * D).
    """

    config_class = StemConfig
    base_model_prefix = "stem"
    main_input_name = "pixel_values"
    supports_gradient_checkpointing = False
    _supports_sdpa = True  # it has no attention: any implementation will do

    def __init__(self, config: StemConfig) -> None:
        super().__init__(config)
        self.stages = nn.ModuleList(StemStage(config, stage) for stage in range(len(config.hidden_sizes)))
        self.layernorm = nn.LayerNorm(config.hidden_sizes[-1])
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Conv2d):
            initialization.normal_(module.weight, 0.0, module.weight[0].numel() ** -0.5)  # spares loaded weights

    def forward(self, pixel_values: Tensor, **_: Any) -> BaseModelOutputWithPooling:
        x = pixel_values
        for stage in self.stages:
            x = stage(x)
        tokens = self.layernorm(x.flatten(2).transpose(1, 2))
        if self.config.num_waves > 1:
            table = waves(x.shape[2], x.shape[3], self.config.num_waves).to(tokens)
            tokens = (tokens.unsqueeze(2) * table.unsqueeze(2)).flatten(2)
        tokens = self.dropout(tokens)
        return BaseModelOutputWithPooling(last_hidden_state=tokens, pooler_output=tokens.mean(1))


def waves(height: int, width: int, number: int) -> Tensor:
    """Return (height * width, number ** 2): products of the lowest cosines of row and column, each of mean square 1."""
    row, column = (
        torch.cos(math.pi * torch.outer((torch.arange(size) + 0.5) / size, torch.arange(number)))
        * torch.tensor([1.0] + [math.sqrt(2)] * (number - 1))
        for size in (height, width)
    )
    return (row[:, None, :, None] * column[None, :, None, :]).reshape(height * width, number**2)


AutoConfig.register(StemConfig.model_type, StemConfig, exist_ok=True)
AutoModel.register(StemConfig, StemModel, exist_ok=True)
StemConfig.register_for_auto_class()
StemModel.register_for_auto_class("AutoModel")
