"""The matching alone, on made-up predictions whose ties are known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from yolo26_executorch.models.export_model import Dense
from yolo26_executorch.models.tasks import DETECT, OBB, POSE, SEGMENT
from yolo26_executorch.parity.matching import Entries, Pairing, Rows, centred, entries_of, pair, rows_of
from yolo26_executorch.parity.tolerances import MEASURES, TOLERANCES

ROWS = 20
FP32 = TOLERANCES["fp32"]


def entries(seed: int = 0, anchors: int = 60, classes: int = 3, values: int = 0) -> Entries:
    generator = torch.Generator().manual_seed(seed)
    boxes = torch.rand(anchors, 4, generator=generator) * 300 + 20
    scores = torch.rand(anchors, classes, generator=generator)
    extra = torch.rand(anchors, values, generator=generator)
    return Entries(boxes, scores, extra, {"coefficient": list(range(values))} if values else {}, None)


def rank(reference: Entries, chosen: Tensor | None = None) -> Rows:
    """Rows of the best entries, or of the entries chosen."""
    if chosen is None:
        chosen = reference.scores.flatten().topk(ROWS).indices
    anchor, label = reference.split(chosen)
    return Rows(
        reference.boxes[anchor], reference.scores[anchor, label], label.float(), reference.extra[anchor].clone(), None
    )


def sound(pairing: Pairing) -> bool:
    return bool(pairing.matched.all()) and not len(pairing.missing)


def distinct(pairing: Pairing) -> bool:
    return len(set(pairing.entry.tolist())) == len(pairing.entry)


def test_the_same_ranking_is_matched_row_by_row() -> None:
    reference = entries(values=4)
    pairing = pair(rank(reference), reference, FP32)
    assert sound(pairing)
    assert pairing.entry.tolist() == pairing.ranked.tolist()


@pytest.mark.parametrize("seed", range(20))
def test_exact_ties_match_in_any_order(seed: int) -> None:
    reference = entries(seed)
    # A few distinct scores only, so that groups of rows tie, the last rank's among them.
    reference.scores.mul_(8).round_().div_(10)
    generator = torch.Generator().manual_seed(1000 + seed)
    noise = torch.rand(reference.scores.shape, generator=generator) * 1e-3
    chosen = (reference.scores + noise).flatten().topk(ROWS).indices
    pairing = pair(rank(reference, chosen), reference, FP32)
    assert sound(pairing)
    assert pairing.entry.tolist() == chosen.tolist()


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
@pytest.mark.parametrize("seed", range(10))
def test_errors_within_tolerance_always_match(precision: str, seed: int) -> None:
    """Including swaps of near ties and of the last rank: the candidate ranks by its own, disturbed scores."""
    tolerances = TOLERANCES[precision]
    reference = entries(seed, values=3)
    # Crowded scores and boxes, so that disturbing them does change ranks, and several entries fit a row.
    reference.scores.mul_(min(20 * tolerances["score"].relative, 0.6)).add_(0.3)
    reference.boxes[1::2] = reference.boxes[::2] + 0.3 * tolerances["box_px"].absolute
    generator = torch.Generator().manual_seed(1000 + seed)

    def disturbed(name: str, values: Tensor) -> Tensor:
        limit = tolerances[name].of(MEASURES[name].scale(values, reference.boxes))
        return values + (torch.rand(values.shape, generator=generator) * 2 - 1) * 0.9 * limit

    theirs = Entries(
        disturbed("box_px", reference.boxes),
        disturbed("score", reference.scores),
        disturbed("coefficient", reference.extra),
        reference.columns,
        None,
    )
    pairing = pair(rank(theirs), reference, tolerances)
    assert sound(pairing)
    assert distinct(pairing)
    assert pairing.entry.tolist() != pairing.ranked.tolist()


@pytest.mark.parametrize("seed", range(20))
def test_one_value_out_of_tolerance_leaves_its_row_unmatched(seed: int) -> None:
    generator = torch.Generator().manual_seed(1000 + seed)
    reference = entries(seed, values=2)
    rows = rank(reference)
    row = int(torch.randint(ROWS, (), generator=generator))
    assert rows.extra is not None
    target, error = [(rows.boxes, 0.2), (rows.scores[:, None], 0.02), (rows.extra, 0.02)][seed % 3]
    target[row, int(torch.randint(target.shape[1], (), generator=generator))] += error
    pairing = pair(rows, reference, FP32)
    assert (~pairing.matched).nonzero().flatten().tolist() == [row]
    # It still gets the entry that it came from, so that the error can be told.
    assert pairing.entry.tolist() == pairing.ranked.tolist()


def test_errors_are_told_from_the_nearest_entry_even_among_ties() -> None:
    """Scores that are all the same give the ranking an order that means nothing."""
    reference = entries()
    reference.scores.fill_(0.9)
    chosen = torch.arange(60, 60 + ROWS)
    rows = rank(reference, chosen)
    rows.boxes[:, 0] += 5
    pairing = pair(rows, reference, FP32)
    assert not pairing.matched.any()
    assert pairing.entry.tolist() == chosen.tolist()


def test_a_wrong_class_is_told_as_such() -> None:
    reference = entries(classes=4)
    reference.scores[:, 1:] *= 0.1
    rows = rank(reference)
    rows.labels.add_(1)
    pairing = pair(rows, reference, FP32)
    assert not pairing.matched.any()
    assert pairing.entry.tolist() == pairing.ranked.tolist()


def test_a_duplicate_finds_no_second_entry() -> None:
    reference = entries()
    ranked = reference.scores.flatten().topk(ROWS).indices
    ranked[0] = ranked[1]
    pairing = pair(rank(reference, ranked), reference, FP32)
    assert int(pairing.matched.sum()) == ROWS - 1
    assert pairing.missing.tolist() == pairing.ranked[:1].tolist()
    assert distinct(pairing)


def test_a_clear_winner_may_not_be_missing() -> None:
    reference = entries()
    ranked = reference.scores.flatten().topk(ROWS + 1).indices
    pairing = pair(rank(reference, ranked[1:]), reference, FP32)
    assert bool(pairing.matched.all())
    assert pairing.missing.tolist() == ranked[:1].tolist()


@pytest.mark.parametrize(("below", "accepted"), [(0.5, True), (3.0, False)])
def test_the_last_rank_may_go_to_a_near_tie_and_to_nothing_less(below: float, accepted: bool) -> None:
    reference = entries()
    ranked = reference.scores.flatten().topk(ROWS + 1).indices
    flat = reference.scores.view(-1)
    last = float(flat[ranked[-2]])
    flat[ranked[-1]] = last - below * FP32["score"].of(torch.tensor(last * (1 - last)))
    pairing = pair(rank(reference, torch.cat([ranked[:-2], ranked[-1:]])), reference, FP32)
    assert bool(pairing.matched.all())
    assert pairing.missing.tolist() == ([] if accepted else [int(ranked[-2])])


def test_an_entry_that_is_due_is_chosen_before_a_nearer_one() -> None:
    """The first row fits the first two entries. Only the first is clearly above the last row."""
    limit = 0.25 * FP32["score"].relative
    places = torch.tensor([[100.01, 100, 10, 10], [100, 100, 10, 10], [200, 200, 10, 10], [300, 300, 10, 10]])
    scores = 0.5 + limit * torch.tensor([2.2, 1.0, 0.0, -0.5])
    reference = Entries(places, scores[:, None], torch.zeros(4, 0), {}, None)
    rows = Rows(places[1:], 0.5 + limit * torch.tensor([1.5, 0.35, 0.3]), torch.zeros(3), None, None)
    pairing = pair(rows, reference, FP32)
    assert pairing.entry.tolist() == [0, 2, 3]
    assert sound(pairing)


def test_classes_must_be_equal_and_real() -> None:
    reference = entries(classes=2)
    for wrong in (0.5, -1.0, 2.0, 1e9):
        rows = rank(reference)
        rows.labels[3] = wrong
        pairing = pair(rows, reference, FP32)
        assert (~pairing.matched).nonzero().flatten().tolist() == [3]


def test_rows_that_are_no_numbers_stand_for_nothing() -> None:
    reference = entries(values=1)
    rows = rank(reference)
    assert rows.extra is not None
    rows.boxes[0, 0] = float("nan")
    rows.scores[1] = float("inf")
    rows.labels[2] = float("nan")
    rows.extra[4] = float("nan")
    pairing = pair(rows, reference, FP32)
    assert (pairing.entry < 0).nonzero().flatten().tolist() == [0, 1, 2, 4]
    assert (~pairing.matched).nonzero().flatten().tolist() == [0, 1, 2, 4]


def test_both_formats_are_read_alike() -> None:
    sizes = {"B": 1, "K": 2, "EXTRA": 6, "RAW": 12, "KEYPOINTS": 2, "VALUES": 3, "H4": 8, "W4": 8}
    corners = torch.tensor([[[10.0, 20, 30, 60], [1, 2, 3, 4]]])
    scores, labels, extra = torch.tensor([[[0.9], [0.8]]]), torch.zeros(1, 2, 1), torch.arange(12.0).view(1, 2, 6)
    raw = {"predictions": torch.cat([corners, scores, labels, extra], -1)}
    named = {
        "detections": torch.cat([centred(corners), scores, labels], -1),
        "keypoints": extra.view(1, 2, 2, 3),
    }
    (first,) = rows_of(POSE.output_specs("ultralytics", sizes), raw)
    (second,) = rows_of(POSE.output_specs("named", sizes), named)
    for mine, other in zip(vars(first).values(), vars(second).values(), strict=True):
        assert (mine is None and other is None) or torch.equal(mine, other)
    assert first.boxes[0].tolist() == [20, 40, 20, 40]


def test_the_angle_is_read_from_either_place() -> None:
    sizes = {"B": 1, "K": 1, "RAW": 7}
    named = {"detections": torch.tensor([[[1.0, 2, 3, 4, 0.5, 0.9, 7]]])}
    raw = {"predictions": torch.tensor([[[1.0, 2, 3, 4, 0.9, 7, 0.5]]])}
    for rows in (
        rows_of(OBB.output_specs("named", sizes), named),
        rows_of(OBB.output_specs("ultralytics", sizes), raw),
    ):
        assert rows[0].extra is not None
        assert [float(rows[0].extra), float(rows[0].scores), float(rows[0].labels)] == pytest.approx([0.5, 0.9, 7])


def test_reference_boxes_are_centred_unless_rotated() -> None:
    dense = Dense(torch.tensor([[[10.0, 20, 30, 60]]]), torch.ones(1, 1, 1), torch.ones(1, 1, 1), None)
    assert entries_of(DETECT, Dense(dense.boxes, dense.scores, dense.extra[..., :0], None), None)[0].boxes.tolist() == [
        [20, 40, 20, 40]
    ]
    assert entries_of(OBB, dense, None)[0].boxes.tolist() == [[10, 20, 30, 60]]


def test_extra_values_are_told_apart() -> None:
    dense = Dense(torch.ones(1, 1, 4), torch.ones(1, 1, 1), torch.ones(1, 1, 6), torch.ones(1, 6, 2, 2))
    with_visibility = {"keypoint_px": [0, 1, 3, 4], "visibility": [2, 5]}
    assert entries_of(POSE, dense, (2, 3))[0].columns == with_visibility
    assert entries_of(POSE, dense, (3, 2))[0].columns == {"keypoint_px": [0, 1, 2, 3, 4, 5]}
    assert entries_of(SEGMENT, dense, None)[0].columns == {"coefficient": [0, 1, 2, 3, 4, 5]}


def squares() -> tuple[Tensor, Tensor, Tensor]:
    """Boxes (2, 4) over pixels 6 to 25 of the masks, coefficients (2, 2) and prototypes (2, 32, 32).

    One object fills the picture's left half, one its right.
    """
    boxes = torch.tensor([[62.0, 62, 80, 80]]).repeat(2, 1)
    protos = torch.full((2, 32, 32), -1.0)
    protos[0, :, :16] = 1
    protos[1, :, 16:] = 1
    return boxes, torch.eye(2), protos


def test_masks_tell_twins_apart() -> None:
    boxes, coefficients, protos = squares()
    scores = torch.tensor([[0.8], [0.8]])
    reference = Entries(boxes, scores, coefficients, {"coefficient": [0, 1]}, protos)
    masks = torch.zeros(2, 32, 32, dtype=torch.uint8)
    masks[0, 6:26, 16:26] = 1
    masks[1, 6:26, 6:16] = 1
    for order in ([0, 1], [1, 0]):
        pairing = pair(Rows(boxes, scores[:, 0], torch.zeros(2), None, masks[order]), reference, FP32)
        assert sound(pairing)
        assert pairing.entry.tolist() == [1 - order[0], 1 - order[1]]
