"""Rewrites of the eager module before it is lowered to CUDA: each a function module → module, exact but for rounding.

They work on modules rather than on the exported graph, so that what they make can be run, and compared with the module
they replace, anywhere. XNNPACK needs none of them.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ...models.export_model import ExportModel, attentions, products, readers_of_sums, sums
from ..kernels.attention import attention
from ..kernels.depthwise import depthwise_conv2d
from ..kernels.masks import masks
from ..kernels.tf32 import round_tf32
from ..kernels.topk import topk
from ..target import H100, Target

FEW_ROWS = 4
"""Up to which a linear layer is no matrix product."""


def for_cuda(model: ExportModel, gpu: Target = H100) -> ExportModel:
    """Apply every rewrite that the CUDA delegate needs, in place, and return the model; `fusion.fuse` comes next."""
    precision = gpu.precision(model.options.precision)
    tf32 = precision == "tf32"
    model.topk = topk
    model.assemble = partial(masks, precision=products(precision))
    if precision != "fp32":
        model.rounded = round_tf32
    for parent, name in attentions(model):
        if FusedAttention.supports(getattr(parent, name)):
            setattr(parent, name, FusedAttention(getattr(parent, name), precision, gpu.shared_bytes))
    for parent in list(model.modules()):
        if isinstance(conv := getattr(parent, "conv", None), nn.Conv2d) and is_depthwise(conv):
            _fuse_depthwise(parent, conv, tf32)
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.ConvTranspose2d):
                setattr(parent, name, PixelShuffleConv(child))
            if isinstance(child, nn.Linear) and model.options.batch <= FEW_ROWS:
                setattr(parent, name, SummedLinear(child))
    if tf32:
        _round_operands(model)
    # The delegate's convolutions read channels-last weights; stored so, they are not copied at every call.
    model.layers.to(memory_format=torch.channels_last)
    return model


def is_depthwise(conv: nn.Conv2d) -> bool:
    """Whether a convolution has one square kernel a channel and nothing that `DepthwiseConv` does not know."""
    return (
        conv.groups == conv.in_channels == conv.out_channels > 1
        and conv.kernel_size[0] == conv.kernel_size[1]
        and conv.stride[0] == conv.stride[1]
        and conv.dilation == (1, 1)
        and isinstance(conv.padding, tuple)
        and conv.padding[0] == conv.padding[1]
        and conv.padding_mode == "zeros"
    )


class Rounded(nn.Module):
    """A module whose output is rounded to tf32; fused into whatever kernel writes it."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner: Any = inner

    def forward(self, *inputs: Tensor) -> Tensor:
        """Run the module and round."""
        return round_tf32(self.inner(*inputs))


class RoundedInput(Rounded):
    """A module whose input is rounded to tf32, where what writes the input is no module to round the output of."""

    def forward(self, *inputs: Tensor) -> Tensor:
        """Round and run the module."""
        output: Tensor = self.inner(*[round_tf32(value) for value in inputs])
        return output


def _round_operands(model: ExportModel) -> None:
    """Round the weights of every matrix product, and the activations where they are written.

    Left as they are: the factors of the attention's two products that are not written by a layer.
    """
    summing = set(sums(model))
    for parent in list(model.modules()):
        if isinstance(parent, nn.Conv2d | nn.Linear | SummedLinear | PixelShuffleConv):
            matrix: Any = parent
            matrix.weight.data = round_tf32(matrix.weight.data)
        if isinstance(getattr(parent, "conv", None), nn.Conv2d):
            layer: Any = parent
            layer.act = Rounded(layer.act)
        for name, child in list(parent.named_children()):
            if child in summing or isinstance(child, PixelShuffleConv):
                setattr(parent, name, Rounded(child))
    for parent, name in readers_of_sums(model):
        setattr(parent, name, RoundedInput(getattr(parent, name)))


class DepthwiseConv(nn.Module):
    """A depthwise convolution with its bias and activation as one kernel; equal to eager within float32 rounding.

    With `tf32` the output, which a matrix product reads next, is rounded to tf32.
    """

    def __init__(self, conv: nn.Conv2d, silu: bool, tf32: bool) -> None:
        super().__init__()
        kernel = conv.kernel_size[0]
        self.register_buffer("taps", conv.weight.detach().reshape(-1, kernel * kernel).t().contiguous())
        bias = conv.bias.detach() if conv.bias is not None else torch.zeros(conv.out_channels, dtype=conv.weight.dtype)
        self.register_buffer("bias", bias.clone())
        self.stride = conv.stride[0]
        self.padding = int(conv.padding[0])
        self.silu = silu
        self.tf32 = tf32

    def forward(self, images: Tensor) -> Tensor:
        """Convolve (N, C, H, W)."""
        output: Tensor = depthwise_conv2d(images, self.taps, self.bias, self.stride, self.padding, self.silu, self.tf32)
        return output


class FusedAttention(nn.Module):
    """Ultralytics' attention with scores, softmax and positional convolution as one kernel; equal within rounding."""

    def __init__(self, original: Any, precision: str, shared_bytes: int) -> None:
        super().__init__()
        self.qkv, self.proj = original.qkv, original.proj
        conv = original.pe.conv
        self.register_buffer("taps", conv.weight.detach().reshape(conv.out_channels, -1).t().contiguous())
        self.register_buffer("bias", conv.bias.detach().clone())
        self.heads, self.key, self.scale = original.num_heads, original.key_dim, original.scale
        self.tf32 = precision == "tf32"
        self.products = products(precision)
        self.shared_bytes = shared_bytes

    @staticmethod
    def supports(original: Any) -> bool:
        """Whether the kernel can do what the module does."""
        sizes = (original.key_dim, original.head_dim)
        conv, act = original.pe.conv, original.pe.act
        plain = is_depthwise(conv) and conv.stride == (1, 1) and conv.bias is not None and isinstance(act, nn.Identity)
        return (
            plain
            and all(size >= 16 and size & (size - 1) == 0 for size in sizes)
            and conv.padding[0] == conv.kernel_size[0] // 2
            and conv.kernel_size[0] % 2 == 1
        )

    def forward(self, images: Tensor) -> Tensor:
        """Attend over the pixels of (N, C, H, W)."""
        qkv = self.qkv(images)
        settings = (self.heads, self.key, self.scale, self.tf32, self.products, self.shared_bytes)
        mixed = attention(qkv, self.taps, self.bias, *settings)
        output: Tensor = self.proj(mixed)
        return output


class PixelShuffleConv(nn.Module):
    """A transposed convolution whose kernel is its stride, as a 1×1 convolution and a shuffle of its channels.

    The kernels do not overlap then, so each output pixel is the same sum of products; equal within rounding.

    Raises:
        NotImplementedError: the transposed convolution overlaps, pads or is grouped.
    """

    def __init__(self, conv: nn.ConvTranspose2d) -> None:
        super().__init__()
        side = conv.stride[0]
        if (
            conv.kernel_size != (side, side)
            or conv.stride != (side, side)
            or conv.padding != (0, 0)
            or conv.output_padding != (0, 0)
            or conv.dilation != (1, 1)
            or conv.groups != 1
        ):
            raise NotImplementedError(f"only a transposed convolution that does not overlap can be rewritten: {conv}")
        self.side = side
        # (in, out, row, column) → (row, column, out, in): the outputs of a pixel lie together, channels innermost.
        weight = (
            conv.weight.detach().permute(2, 3, 1, 0).reshape(side * side * conv.out_channels, conv.in_channels, 1, 1)
        )
        self.weight: Tensor
        self.register_buffer("weight", weight.contiguous())
        bias = None if conv.bias is None else conv.bias.detach().repeat(side * side)
        self.bias: Tensor | None
        self.register_buffer("bias", bias)

    def forward(self, images: Tensor) -> Tensor:
        """Upsample (N, C, H, W) to (N, C', side * H, side * W)."""
        batch, _, height, width = images.shape
        out = nn.functional.conv2d(images, self.weight, self.bias)
        out = out.view(batch, self.side, self.side, -1, height, width).permute(0, 3, 4, 1, 5, 2)
        return out.reshape(batch, -1, height * self.side, width * self.side)


class SummedLinear(nn.Module):
    """A linear layer of a few rows, as sums of products in float32; equal within rounding.

    Reading the weight is all that takes time, and a reduction reads it with all multiprocessors; of a matrix product's
    tile most rows would be empty.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.register_buffer("weight", linear.weight.detach().clone())
        bias = torch.zeros(linear.out_features) if linear.bias is None else linear.bias.detach().clone()
        self.register_buffer("bias", bias.to(linear.weight.dtype))

    def forward(self, rows: Tensor) -> Tensor:
        """Apply the layer to (N, inputs)."""
        weight: Any = self.weight
        bias: Any = self.bias
        output: Tensor = (rows.float().unsqueeze(1) * weight.float()).sum(2) + bias.float()
        return output.to(rows.dtype)


def _fuse_depthwise(parent: nn.Module, conv: nn.Conv2d, tf32: bool) -> None:
    """Put a `DepthwiseConv` in place of Ultralytics' `Conv` wrapper's convolution, taking its activation along."""
    act = getattr(parent, "act", None)
    silu = isinstance(act, nn.SiLU)
    parent.conv = DepthwiseConv(conv, silu, tf32)
    if silu:
        parent.act = nn.Identity()
