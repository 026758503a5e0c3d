"""Compare an exported model's outputs with PyTorch's: figures for people, failures for the exit status.

Names, shapes and dtypes come first, then values. Every failure is collected; none is a warning. Rankings are compared
as sets (`matching`), within the limits of `tolerances`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from ..models.export_model import Dense
from ..models.tasks import Task, TensorSpec
from .masks import MaskCounts, compare_full_masks, compare_masks
from .matching import Entries, Pairing, Rows, entries_of, pair, rows_of
from .records import Agreement, Item, ParityReport, Quantity
from .tolerances import MEASURES, TOLERANCES, Tolerance


def compare(
    task: Task,
    specs: Sequence[TensorSpec],
    candidate: Mapping[str, Tensor],
    reference: Dense | Tensor,
    *,
    precision: str,
    keypoint_shape: tuple[int, int] | None = None,
    tolerances: Mapping[str, Tolerance] | None = None,
) -> ParityReport:
    """Compare a model's outputs, in either output format, with PyTorch's on the same input.

    `task`, `specs` (`ExportModel.output_specs` or the manifest's) and `keypoint_shape` (keypoints, values; None without
    keypoints) say what the model gives; `candidate` holds its outputs by name, on any device. `reference` is
    `ExportModel.reference` of the input. `precision` is the
    candidate's and names its row of `TOLERANCES`; `tolerances` replaces entries of that row, by quantity.
    """
    check = _Check({**TOLERANCES[precision], **(tolerances or {})})
    given = Given(task, specs, _sound_outputs(check, specs, candidate), keypoint_shape)
    agreement, items = COMPARISONS[task.kind](check, given, reference)
    return ParityReport(check.quantities(), agreement, tuple(check.failures), tuple(items), check.flat_errors())


@dataclass(frozen=True)
class Given:
    """What a model gave: outputs whose names and shapes are right, on the CPU, and what they are."""

    task: Task
    specs: Sequence[TensorSpec]
    outputs: Mapping[str, Tensor]
    keypoint_shape: tuple[int, int] | None


Compared: TypeAlias = "tuple[Agreement | None, list[Item]]"
"""What the figures mean for the task, and what was compared one by one; None where there was nothing to compare."""

Worst: TypeAlias = tuple[list[float], list[float]]


@dataclass
class _Check:
    """Collects errors and failures while outputs are compared."""

    tolerances: Mapping[str, Tolerance]
    failures: list[str] = field(default_factory=list)
    errors: dict[str, list[tuple[Tensor, Tensor]]] = field(default_factory=dict)
    """By quantity: errors and their scales, flat, of each image."""

    def add(self, name: str, given: Tensor, expected: Tensor, boxes: Tensor | None = None) -> Worst:
        """Take in values (N, V) of a quantity; those that are no numbers are reported elsewhere.

        Returns the largest error and the largest of error ÷ tolerance of each of the N.
        """
        boxes = expected.new_zeros(len(expected), 4) if boxes is None else boxes
        error, scale = (given - expected).abs(), MEASURES[name].scale(expected, boxes)
        kept = error.isfinite()
        self.errors.setdefault(name, []).append((error[kept], scale[kept]))
        error = error.where(kept, 0)
        return error.amax(1).tolist(), (error / self.tolerances[name].of(scale)).amax(1).tolist()

    def flat_errors(self) -> dict[str, Tensor]:
        """Return every error that was taken in, by quantity."""
        return {name: torch.cat([error for error, _ in pairs]) for name, pairs in self.errors.items()}

    def quantities(self) -> tuple[Quantity, ...]:
        """Return the figures, and make a failure of each quantity that is out of tolerance."""
        found = []
        for name, pairs in self.errors.items():
            error, scale = (torch.cat(parts) for parts in zip(*pairs, strict=True))
            if not error.numel():
                continue
            tolerance, unit = self.tolerances[name], MEASURES[name].unit
            quantity = Quantity(
                name=name,
                unit=unit,
                values=error.numel(),
                max=float(error.max()),
                mean=float(error.double().mean()),
                p99=float(error.kthvalue(-(-99 * error.numel() // 100)).values),
                absolute=tolerance.absolute,
                relative=tolerance.relative,
                smallest_tolerance=float((error - tolerance.relative * scale).max().clamp(min=0)),
                ratio=float((error / tolerance.of(scale)).max()),
            )
            found.append(quantity)
            if not quantity.passed:
                self.failures.append(
                    f"{name} is off by up to {quantity.max:.3g} {unit} (mean {quantity.mean:.3g}), "
                    f"{quantity.ratio:.3g} times its tolerance"
                )
        return tuple(found)


def _sound_outputs(check: _Check, specs: Sequence[TensorSpec], candidate: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Check names, shapes, dtypes and finiteness; returns the outputs whose values can be compared, on the CPU."""
    names = [spec.name for spec in specs]
    if list(candidate) != names:
        check.failures.append(f"outputs are {', '.join(candidate) or 'none'}; expected {', '.join(names)}")
    sound = {}
    for spec in specs:
        if spec.name not in candidate:
            continue
        value = candidate[spec.name].detach().cpu()
        dtype = str(value.dtype).removeprefix("torch.")
        if dtype != spec.dtype:
            check.failures.append(f"{spec.name} is {dtype}; expected {spec.dtype}")
        if tuple(value.shape) != spec.shape:
            check.failures.append(f"{spec.name} has shape {tuple(value.shape)}; expected {spec.shape}")
            continue
        if broken := int((~value.isfinite()).sum()):
            check.failures.append(f"{spec.name}: {broken} of {value.numel()} values are NaN or infinite")
        sound[spec.name] = value if "int" in spec.dtype else value.float()
    return sound


def _finite(check: _Check, *values: Tensor) -> bool:
    """Whether the reference holds only numbers: half precision can overflow in PyTorch, too."""
    if all(bool(value.isfinite().all()) for value in values):
        return True
    check.failures.append("PyTorch's own outputs hold NaN or infinite values, so there is nothing to compare with")
    return False


def _compare_probabilities(check: _Check, found: Given, reference: Dense | Tensor) -> Compared:
    """Compare probabilities (B, classes) and what they say: their sum, top-1 and top-5."""
    assert isinstance(reference, Tensor)
    expected, name = reference.detach().cpu(), found.specs[0].name
    if not _finite(check, expected) or name not in found.outputs:
        return None, []
    given = found.outputs[name]
    worst = {
        "probability": check.add("probability", given, expected),
        "probability_sum": check.add("probability_sum", given.sum(1, keepdim=True), torch.ones(len(given), 1)),
    }
    allowed = check.tolerances["probability"].of(MEASURES["probability"].scale(expected, expected))
    top = min(5, given.shape[1])
    ours, theirs = given.nan_to_num(-1).topk(top).indices.tolist(), expected.topk(top).indices.tolist()
    for image, (our, their) in enumerate(zip(ours, theirs, strict=True)):
        for count in (1, top):
            # Two classes may each be off by their tolerance: only those apart by more than both have changed places.
            lost, gained = set(their[:count]) - set(our[:count]), set(our[:count]) - set(their[:count])
            if any(
                expected[image, a] - expected[image, b] > allowed[image, a] + allowed[image, b]
                for a in lost
                for b in gained
            ):
                check.failures.append(f"image {image}: the top-{count} is {our[:count]}; expected {their[:count]}")
    items = [
        Item(
            image=image, row=0, label=their[0], confidence=float(expected[image, their[0]]),
            row_confidence=float(given[image].nan_to_num(0)[our[0]]), box=None,
            matched=our[0] == their[0], class_equal=our[0] == their[0], box_iou=None, mask_iou=None,
            **_of_row(worst, image),
        )
        for image, (our, their) in enumerate(zip(ours, theirs, strict=True))
    ]  # fmt: skip
    same = [set(our) == set(their) for our, their in zip(ours, theirs, strict=True)]
    agreement = Agreement(
        rows=len(given),
        matched=sum(same),
        classes_equal=sum(item.class_equal for item in items),
        near_ties=sum(our != their for our, their, equal in zip(ours, theirs, same, strict=True) if equal),
        min_box_iou=None,
        min_mask_iou=None,
        mask_pixels_differing=None,
    )
    return agreement, items


def _compare_class_map(check: _Check, found: Given, reference: Dense | Tensor) -> Compared:
    """Compare class logits (B, classes, H/8, W/8), and each pixel's class with what PyTorch's logits make of it."""
    assert isinstance(reference, Tensor)
    logits = reference.detach().cpu()
    if not _finite(check, logits):
        return None, []
    worst: dict[str, Worst] = {}
    if "logits" in found.outputs:
        worst["logit"] = check.add("logit", found.outputs["logits"].flatten(1), logits.flatten(1))
    differing = None
    if "classes" in found.outputs:
        given = found.outputs["classes"].flatten(1)
        full = interpolate(logits, scale_factor=8, mode="bilinear", align_corners=False)
        expected = (full.argmax(1) if full.shape[1] > 1 else full[:, 0] > 0).flatten(1)
        differing = (given != expected).double().mean(1, keepdim=True).float()
        worst["class_pixels"] = check.add("class_pixels", differing, torch.zeros_like(differing))
    return _per_image(worst, len(logits), None if differing is None else float(differing.mean()))


def _compare_depth_map(check: _Check, found: Given, reference: Dense | Tensor) -> Compared:
    """Compare depths (B, 1, H, W)."""
    assert isinstance(reference, Tensor)
    expected, name = reference.detach().cpu(), found.specs[0].name
    if not _finite(check, expected) or name not in found.outputs:
        return None, []
    worst = {"depth": check.add("depth", found.outputs[name].flatten(1), expected.flatten(1))}
    return _per_image(worst, len(expected), None)


def _per_image(worst: Mapping[str, Worst], images: int, pixels_differing: float | None) -> Compared:
    """Return what maps give: an item for each image, which has no class and no confidence."""
    items = []
    for image in range(images):
        found = _of_row(worst, image)
        matched = all(ratio <= 1 for ratio in found["ratios"].values())
        items.append(
            Item(
                image=image, row=0, label=None, confidence=None, row_confidence=None, box=None, matched=matched,
                class_equal=matched, box_iou=None, mask_iou=None, **found,
            )
        )  # fmt: skip
    matched_count = sum(item.matched for item in items)
    return Agreement(images, matched_count, matched_count, 0, None, None, pixels_differing), items


def _compare_rankings(check: _Check, found: Given, reference: Dense | Tensor) -> Compared:
    """Compare ranked rows, as sets, and prototypes."""
    assert isinstance(reference, Dense)
    protos = reference.protos if reference.protos is not None else reference.extra
    if not _finite(check, reference.boxes, reference.scores, reference.extra, protos):
        return None, []
    compared: Compared = (None, [])
    if rows := rows_of(found.specs, found.outputs):
        entries = entries_of(found.task, reference, found.keypoint_shape)
        compared = _compare_rows(check, rows, entries, found.task.rotated)
    if "protos" in found.outputs:
        check.add("proto", found.outputs["protos"].flatten(1), protos.detach().cpu().flatten(1))
    return compared


def _compare_rows(
    check: _Check, rows: list[Rows], entries: list[Entries], rotated: bool
) -> tuple[Agreement, list[Item]]:
    """Match the rows of each image, collect their errors, and count."""
    total = matched = near_ties = 0
    items: list[Item] = []
    masks: list[MaskCounts] = []
    for image, (row, entry) in enumerate(zip(rows, entries, strict=True)):
        where = f"image {image}: " if len(rows) > 1 else ""
        pairing = pair(row, entry, check.tolerances)
        check.failures += [where + failure for failure in _ranking_failures(row, entry, pairing)]
        total += len(pairing.entry)
        matched += int(pairing.matched.sum())
        near_ties += int((pairing.matched & (pairing.entry != pairing.ranked)).sum())

        kept = pairing.entry >= 0
        anchor, label = entry.split(pairing.entry[kept])
        given, boxes, extra = row.boxes[kept], entry.boxes[anchor], entry.extra[anchor]
        worst = {
            "box_px": check.add("box_px", given, boxes, boxes),
            "score": check.add("score", row.scores[kept, None], entry.scores[anchor, label, None], boxes),
        }
        angles = None
        if row.extra is not None:
            for name, columns in entry.columns.items():
                worst[name] = check.add(name, row.extra[kept][:, columns], extra[:, columns], boxes)
            angles = (row.extra[kept], extra) if rotated else None
        ious = _box_ious(given, boxes, angles)
        counts: dict[str, MaskCounts] = {}
        if row.masks is not None and entry.protos is not None:
            if strange := int((row.masks > 1).sum()):
                check.failures.append(f"{where}masks: {strange} pixels are neither 0 nor 1")
            counts["mask_iou"] = compare_masks(row.masks[kept], given, boxes, extra, entry.protos)
        if row.protos is not None and row.extra is not None and entry.protos is not None:
            counts["full_mask_iou"] = compare_full_masks(
                (given, row.extra[kept], row.protos), (boxes, extra, entry.protos)
            )
        for name, count in counts.items():
            worst[name] = check.add(name, count.error[:, None], torch.zeros_like(count.error)[:, None])
            masks.append(count)
        mask_iou = torch.stack([count.iou for count in counts.values()]).amin(0) if counts else None
        items += _items(image, row, entry, pairing, worst, ious, mask_iou)
    box_ious = [item.box_iou for item in items if item.box_iou is not None]
    mask_ious = [item.mask_iou for item in items if item.mask_iou is not None]
    differ, either = (sum(float(getattr(counts, name).sum()) for counts in masks) for name in ("differ", "either"))
    agreement = Agreement(
        rows=total,
        matched=matched,
        classes_equal=sum(item.class_equal for item in items),
        near_ties=near_ties,
        min_box_iou=min(box_ious, default=None),
        min_mask_iou=min(mask_ious, default=None),
        mask_pixels_differing=differ / max(either, 1) if mask_ious else None,
    )
    return agreement, items


def _items(
    image: int,
    rows: Rows,
    entries: Entries,
    pairing: Pairing,
    worst: Mapping[str, Worst],
    box_ious: Tensor,
    mask_ious: Tensor | None,
) -> list[Item]:
    """Return an image's rows beside their entries, then the entries that lack a row.

    `worst`, `box_ious` and `mask_ious` are of the rows that have an entry.
    """
    with_entry = (pairing.entry >= 0).nonzero().flatten().tolist()
    place = {row: index for index, row in enumerate(with_entry)}
    ious, masks = box_ious.tolist(), None if mask_ious is None else mask_ious.tolist()
    scores, labels, matched = rows.scores.tolist(), rows.labels.tolist(), pairing.matched.tolist()
    items = []
    pairs: list[tuple[int | None, int]] = [*enumerate(pairing.entry.tolist())]
    # Some of what is missing may stand beside a row that is not it.
    pairs += [(None, number) for number in pairing.missing[~torch.isin(pairing.missing, pairing.entry)].tolist()]
    for row, number in pairs:
        anchor, label = divmod(number, entries.scores.shape[1]) if number >= 0 else (None, None)
        index = None if row is None else place.get(row)
        items.append(
            Item(
                image=image,
                row=row,
                label=label,
                confidence=None if anchor is None else float(entries.scores[anchor, label]),
                row_confidence=None if row is None or not math.isfinite(scores[row]) else scores[row],
                box=None if anchor is None else tuple(entries.boxes[anchor].tolist()),
                matched=row is not None and matched[row],
                class_equal=index is not None and row is not None and labels[row] == label,
                box_iou=None if index is None or math.isnan(ious[index]) else ious[index],
                mask_iou=None if index is None or masks is None else masks[index],
                **_of_row({} if index is None else worst, index or 0),
            )
        )
    return items


def _of_row(worst: Mapping[str, Worst], index: int) -> dict[str, dict[str, float]]:
    """Return the fields `errors` and `ratios` of an item."""
    return {
        "errors": {name: errors[index] for name, (errors, _) in worst.items()},
        "ratios": {name: ratios[index] for name, (_, ratios) in worst.items()},
    }


def _ranking_failures(rows: Rows, entries: Entries, pairing: Pairing) -> list[str]:
    """Say what is wrong with an image's ranking."""
    failures = []
    if unsorted := (rows.scores.diff() > 0).nonzero().flatten().tolist():
        failures.append(
            f"rows are not sorted by confidence: {len(unsorted)} are above the row before; first row {unsorted[0] + 1}"
        )
    if strange := (~entries.has_class(rows.labels) & rows.labels.isfinite()).nonzero().flatten().tolist():
        failures.append(
            f"{len(strange)} rows have no class from 0 to {entries.scores.shape[1] - 1}; "
            f"row {strange[0]} has {float(rows.labels[strange[0]]):g}"
        )
    if lost := (~pairing.matched).nonzero().flatten().tolist():
        failures.append(
            f"{len(lost)} of {len(pairing.matched)} rows match no prediction of PyTorch's that is not another row's; "
            f"first row {lost[0]}, confidence {float(rows.scores[lost[0]]):.4g}"
        )
    if len(pairing.missing):
        anchor, label = entries.split(pairing.missing[0])
        failures.append(
            f"{len(pairing.missing)} of PyTorch's predictions are missing; first class {int(label)}, "
            f"confidence {float(entries.scores[anchor, label]):.4g}"
        )
    return failures


def _box_ious(given: Tensor, expected: Tensor, angles: tuple[Tensor, Tensor] | None) -> Tensor:
    """IoU of pairs of boxes (N, 4: x, y, w, h), NaN for those without an area: a head can give sides below zero."""
    from ultralytics.utils.metrics import bbox_iou, probiou

    kept = (given[:, 2:] > 0).all(1) & (expected[:, 2:] > 0).all(1)
    if angles is None:
        ious: Tensor = bbox_iou(given, expected, xywh=True)
    else:
        ious = probiou(torch.cat([given, angles[0]], 1), torch.cat([expected, angles[1]], 1))
    return ious.flatten().where(kept, math.nan)


COMPARISONS: dict[str, Callable[[_Check, Given, Dense | Tensor], Compared]] = {
    "rankings": _compare_rankings,
    "probabilities": _compare_probabilities,
    "class_map": _compare_class_map,
    "depth_map": _compare_depth_map,
}
"""By `Task.kind`."""
