"""YOLOE-26: an open-vocabulary network becomes a plain one, whose classes are words that are fused into its head.

Knows `YOLOEDetect`, `YOLOESegment26` and `LRPCHead` of `ultralytics/nn/modules/head.py`, and the text encoders of
`ultralytics/nn/text_model.py` (8.4).
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import CheckpointError
from .tasks import TASKS

if TYPE_CHECKING:
    from torch import Tensor, nn

Encode = Callable[[Sequence[str], str], "Tensor"]
"""Words and the text encoder's name → embeddings, float32 (1, words, dimensions)."""

_ENCODERS = {"mobileclip": "mobileclip_blt.ts", "mobileclip2": "mobileclip2_b.ts"}
"""Ultralytics' names of text encoders, and the files that they are published in."""

_BRANCHES = {"cv2": "cv2", "cv3": "cv3", "cv5": "cv4"}
"""The open head's branches by name, and the plain head's names for them: boxes, classes, mask coefficients."""


def closed(origin: str, network: Any, words: Sequence[str], encode: Encode) -> Any:
    """Return a network whose classes are outputs of its own, with its `names`: what can be exported.

    A network that has no open head is returned as it is. Otherwise it is changed: its one-to-one branches become those
    of a plain head, the layer before the classes multiplied with the words' embeddings.

    Args:
        origin: what errors call it.
        network: Ultralytics' module, in eval mode.
        words: the classes; empty for those that it has of itself.
        encode: embeds the words.

    Raises:
        CheckpointError: it takes no words, or has no classes without, or no one-to-one head.
    """
    head: Any = network.model[-1]
    task = next((task for task in TASKS.values() if task.open_head == type(head).__name__), None)
    if task is None:
        if words:
            raise CheckpointError(f"{origin} has classes of its own and takes no --words; leave them out")
        return network
    if getattr(head, "one2one_cv2", None) is None:
        raise CheckpointError(
            f"{origin} is a {type(head).__name__} without the end-to-end (one-to-one) head, which is the one that is "
            "exported; YOLOE-26 has it, older ones have not"
        )
    vocabularies = getattr(head, "one2one_lrpc", getattr(head, "lrpc", None))
    if (vocabularies is not None or head.is_fused) and words:
        kind = "is prompt-free" if vocabularies is not None else "has its words fused into it already"
        raise CheckpointError(f"{origin} {kind}: it has {head.nc} classes and takes no --words; leave them out")
    if vocabularies is not None:
        _append(head.one2one_cv3, [_convolution(item.vocab) for item in vocabularies])
        _append(head.one2one_cv2, [item.loc for item in vocabularies])
    elif not head.is_fused:
        if words:
            network.names = dict(enumerate(words))
            embeddings = head.get_tpe(encode(words, getattr(network, "text_model", "mobileclip:blt")))
        elif (embeddings := getattr(network, "pe", None)) is None:
            raise CheckpointError(
                f'{origin} is an open-vocabulary model: name its classes, such as --words person "traffic light"'
            )
        head.nc = embeddings.shape[1]
        head.fuse(embeddings)
    network.model[-1] = _plain(head, task.head)
    return network


def encode_words(words: Sequence[str], encoder: str, find: Callable[[str], Path]) -> Tensor:
    """Return the embeddings of words by one of Ultralytics' text encoders: float32 (1, words, 512).

    Args:
        words: the classes.
        encoder: Ultralytics' name of it, such as `mobileclip2:b`.
        find: returns the place of a published file.

    Raises:
        CheckpointError: the package that splits text into tokens is not installed, or the encoder is not known.
        DownloadError: of `find`.
    """
    import torch

    file = _ENCODERS.get(encoder.partition(":")[0])
    if file is None:
        raise CheckpointError(f"the text encoder {encoder!r} is not known; known are {', '.join(_ENCODERS)}")
    # Ultralytics would install it by itself, unasked.
    if importlib.util.find_spec("clip") is None:
        raise CheckpointError(
            "--words needs CLIP's tokenizer, which is not installed; fix: pip install "
            f"git+https://github.com/ultralytics/CLIP.git (the text encoder, {file}, is then downloaded once)"
        )
    text_model = importlib.import_module("ultralytics.nn.text_model")
    model = text_model.MobileCLIPTS(torch.device("cpu"), weight=str(find(file)))
    with torch.no_grad():
        embeddings: Tensor = model.encode_text(model.tokenize(list(words)))
    return embeddings[None].float()


def no_encoder(words: Sequence[str], encoder: str) -> Tensor:
    """Stand for an encoder where no words are given; raises CheckpointError."""
    raise CheckpointError(f"no text encoder {encoder} for {', '.join(words)}")


def made_up(words: Sequence[str], seed: int) -> Tensor:
    """Return embeddings that are seeded noise, another for each word, for random weights: float32 (1, words, 512)."""
    import torch

    def embedding(word: str) -> Tensor:
        digest = hashlib.sha256(f"{seed} {word}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
        return torch.randn(512, generator=generator)

    return torch.nn.functional.normalize(torch.stack([embedding(word) for word in words]), dim=-1)[None]


def _plain(head: Any, name: str) -> nn.Module:
    """Return a plain head of a class of `ultralytics.nn.modules`, with an open one's one-to-one branches."""
    modules = importlib.import_module("ultralytics.nn.modules.head")
    channels = [branch[0].conv.in_channels for branch in head.one2one_cv2]
    sizes = [getattr(head, size) for size in ("nm", "npr") if hasattr(head, size)]
    plain: Any = getattr(modules, name)(int(head.nc), *sizes, head.reg_max, True, channels)
    for theirs, ours in _BRANCHES.items():
        if hasattr(head, f"one2one_{theirs}"):
            setattr(plain, f"one2one_{ours}", getattr(head, f"one2one_{theirs}"))
            setattr(plain, ours, None)  # as after Ultralytics' own `fuse`
    for shared in ("proto", "dfl", "stride", "i", "f", "type", "np"):
        if hasattr(head, shared):
            setattr(plain, shared, getattr(head, shared))
    made: nn.Module = plain.eval()
    return made


def _append(branches: Any, layers: Sequence[nn.Module]) -> None:
    for branch, layer in zip(branches, layers, strict=True):
        branch.append(layer)


def _convolution(layer: Any) -> nn.Module:
    """Return a linear layer over channels as the 1×1 convolution that it is."""
    from torch import nn

    if not isinstance(layer, nn.Linear):
        return layer  # type: ignore[no-any-return]
    convolution = nn.Conv2d(layer.in_features, layer.out_features, 1)
    convolution.weight.data = layer.weight.data[..., None, None]
    convolution.bias = layer.bias
    return convolution
