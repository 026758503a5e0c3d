"""Open-vocabulary networks closed over words: the same numbers as Ultralytics' own, and what is refused."""

from __future__ import annotations

import copy
import importlib.machinery
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch

from yolo26_executorch.errors import CheckpointError
from yolo26_executorch.models import checkpoints, open_vocabulary
from yolo26_executorch.models.checkpoints import Source, load
from yolo26_executorch.models.export_model import ExportModel
from yolo26_executorch.models.open_vocabulary import closed, encode_words, made_up, no_encoder
from yolo26_executorch.models.options import ExportOptions
from yolo26_executorch.models.variants import ALL_VARIANTS

WORDS = ["person", "forklift", "traffic light"]


def encode(words: Any, encoder: str) -> torch.Tensor:
    assert encoder == "mobileclip2:b"
    return made_up(words, seed=1)


@pytest.fixture(scope="module")
def built() -> Any:
    """Ultralytics' YOLOE-26 of size n with random weights that let its outputs differ from place to place."""
    from ultralytics.nn.tasks import YOLOESegModel

    torch.manual_seed(0)
    network = YOLOESegModel("yoloe-26n-seg.yaml", verbose=False).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # the average of what it sees
    network.args = {"imgsz": 320}
    with torch.no_grad():
        network.train()
        network(torch.rand(4, 3, 320, 320), tpe=made_up(WORDS, 1).expand(4, -1, -1))
    return network.eval()


@pytest.fixture
def network(built: Any) -> Any:
    return copy.deepcopy(built)


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.rand(1, 3, 320, 320, generator=torch.Generator().manual_seed(3))


def dense(network: Any, images: torch.Tensor) -> Any:
    """What is exported of a network, before the ranking."""
    checkpoint = checkpoints.Checkpoint(
        network, ALL_VARIANTS["yoloe-26n-seg"].task, network.names, None, "user", "best.pt", "0" * 64, None
    )
    options = ExportOptions(precision="fp32", imgsz=(320, 320))
    with torch.no_grad():
        return ExportModel(checkpoint, options).dense(images)


def assert_same(found: Any, scores: torch.Tensor, coefficients: torch.Tensor, protos: torch.Tensor) -> None:
    assert float(scores.max() - scores.min()) > 1e-4  # all alike would prove nothing
    torch.testing.assert_close(found.scores, scores.sigmoid().transpose(1, 2), atol=1e-6, rtol=1e-3)
    torch.testing.assert_close(found.extra, coefficients.transpose(1, 2), atol=2e-3, rtol=1e-3)
    torch.testing.assert_close(found.protos, protos, atol=2e-3, rtol=1e-3)


def test_words_fused_in_give_what_ultralytics_gives_with_them(network: Any, images: torch.Tensor) -> None:
    with torch.no_grad():
        network.set_classes(WORDS, network.model[-1].get_tpe(encode(WORDS, "mobileclip2:b")))
        network.model[-1].end2end = True
        (_, protos), preds = network(images)
    ours = closed("it", copy.deepcopy(network), WORDS, encode)
    assert ours.names == dict(enumerate(WORDS))
    assert type(ours.model[-1]).__name__ == "Segment26"
    preds = preds["one2one"]
    assert_same(dense(ours, images), preds["scores"], preds["mask_coefficient"], protos)


def test_stored_embeddings_and_fused_words_are_taken_as_they_are(network: Any, images: torch.Tensor) -> None:
    with torch.no_grad():
        network.set_classes(WORDS, network.model[-1].get_tpe(encode(WORDS, "mobileclip2:b")))
    fused = copy.deepcopy(network)
    fused.model[-1].fuse(fused.pe)
    scores = [dense(closed("it", each, (), no_encoder), images).scores for each in (network, fused)]
    assert scores[0].shape[-1] == 3
    torch.testing.assert_close(*scores)
    with pytest.raises(CheckpointError, match=r"it has its words fused into it already: it has 3 classes and takes no"):
        closed("it", copy.deepcopy(built_again(fused)), ["boat"], encode)


def built_again(network: Any) -> Any:
    """A fused network with the open head, which closing replaced."""
    from ultralytics.nn.modules.head import YOLOESegment26

    head = YOLOESegment26(3, 32, 64, 512, True, 1, True, (64, 128, 256))
    head.is_fused = True
    network.model[-1] = head
    return network


def test_prompt_free_networks_keep_their_own_list(network: Any, images: torch.Tensor) -> None:
    names = [f"thing {index}" for index in range(7)]
    with torch.no_grad():
        donor = copy.deepcopy(network)
        donor.set_classes(names, donor.model[-1].get_tpe(made_up(names, 2)))
        donor.model[-1].fuse(donor.pe)
        vocabularies = [torch.nn.ModuleList(branch[-1] for branch in donor.model[-1].one2one_cv3)]
        vocabularies.append(copy.deepcopy(vocabularies[0]))
        # The filter before the vocabulary is a branch of one class.
        network.set_classes(["object"], network.model[-1].get_tpe(made_up(["object"], 2)))
        network.model[-1].fuse(network.pe)
        network.model[-1].end2end = True
        network.set_vocab(vocabularies[0], names, vocabularies[1])
        network.model[-1].conf = 0  # every anchor, as in Ultralytics' own exports
        (_, protos), preds = network(images)
    with pytest.raises(CheckpointError, match="it is prompt-free: it has 7 classes and takes no --words"):
        closed("it", network, ["boat"], encode)
    ours = closed("it", network, (), no_encoder)
    assert ours.names == dict(enumerate(names))
    assert_same(dense(ours, images), preds["scores"], preds["mask_coefficient"], protos)


def test_a_network_without_words_or_with_classes_of_its_own_is_refused(network: Any) -> None:
    with pytest.raises(
        CheckpointError, match=r"it is an open-vocabulary model: name its classes, such as --words pers"
    ):
        closed("it", network, (), encode)
    network.model[-1].one2one_cv2 = None
    with pytest.raises(CheckpointError, match=r"without the end-to-end \(one-to-one\) head"):
        closed("it", network, WORDS, encode)
    source = Source("yolo26n", ALL_VARIANTS["yolo26n"], None)
    with pytest.raises(CheckpointError, match="yolo26n has classes of its own and takes no --words; leave them out"):
        load(source, weights_dir=None, random=True, seed=0, words=WORDS)


def test_a_missing_text_encoder_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def find(file: str) -> Path:
        return tmp_path / file

    monkeypatch.setattr(open_vocabulary.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(CheckpointError, match=r"CLIP's tokenizer.*pip install git\+https.*mobileclip2_b\.ts"):
        encode_words(WORDS, "mobileclip2:b", find)
    with pytest.raises(CheckpointError, match="text encoder 'other:x' is not known; known are mobileclip, mobileclip2"):
        encode_words(WORDS, "other:x", find)


def test_a_text_encoder_at_hand_is_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Encoder:
        def __init__(self, device: torch.device, weight: str) -> None:
            assert weight == str(tmp_path / "mobileclip2_b.ts")

        def tokenize(self, words: list[str]) -> torch.Tensor:
            return torch.tensor([[len(word)] for word in words])

        def encode_text(self, tokens: torch.Tensor) -> torch.Tensor:
            return tokens.half()

    spec = importlib.machinery.ModuleSpec("clip", None)
    monkeypatch.setattr(open_vocabulary.importlib.util, "find_spec", lambda name: spec)
    stub: Any = types.ModuleType("ultralytics.nn.text_model")
    stub.MobileCLIPTS = Encoder
    monkeypatch.setitem(sys.modules, "ultralytics.nn.text_model", stub)
    found = encode_words(WORDS, "mobileclip2:b", lambda file: tmp_path / file)
    assert found.tolist() == [[[6], [8], [13]]]
    assert found.dtype == torch.float32


def test_made_up_embeddings_are_a_words_own() -> None:
    one, other = made_up(["a", "b"], 0), made_up(["b", "a"], 0)
    assert one.shape == (1, 2, 512)
    assert torch.equal(one[0, 0], other[0, 1])
    assert not torch.equal(one[0, 0], made_up(["a"], 1)[0, 0])
    torch.testing.assert_close(one.norm(dim=-1), torch.ones(1, 2))
