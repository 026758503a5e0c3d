from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from yolo26_executorch.errors import InputError
from yolo26_executorch.models.tasks import TensorSpec
from yolo26_executorch.runtime.runner import BaseRunner, prepare

FLOATS = TensorSpec("images", (2, 3, 4, 5), "float32", "RGB pictures")
BYTES = TensorSpec("images", (2, 4, 5, 3), "uint8", "RGB pictures")


def pictures() -> Tensor:
    return torch.rand(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))


def test_what_fits_is_passed_on_as_it_is() -> None:
    images = pictures()
    assert prepare(images, FLOATS).data_ptr() == images.data_ptr()
    pixels = torch.zeros(2, 4, 5, 3, dtype=torch.uint8)
    assert prepare(pixels, BYTES).data_ptr() == pixels.data_ptr()


@pytest.mark.parametrize(
    "strided",
    [
        lambda images: images.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2),
        lambda images: images.contiguous(memory_format=torch.channels_last),
        lambda images: images.transpose(2, 3).contiguous().transpose(2, 3),
        lambda images: torch.stack([images, images + 1], -1)[..., 0],
        lambda images: torch.nn.functional.pad(images, (1, 2, 3, 4))[:, :, 3:-4, 1:-2],
    ],
)
def test_strides_are_made_right(strided: Any) -> None:
    images = pictures()
    given = prepare(strided(images), FLOATS)
    assert given.is_contiguous()
    assert torch.equal(given, images)


def test_an_expanded_picture_is_made_real() -> None:
    given = prepare(torch.full((1, 1, 1, 1), 0.5).expand(2, 3, 4, 5), FLOATS)
    assert given.is_contiguous()
    assert given.untyped_storage().nbytes() == given.numel() * 4


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_floats_are_cast(dtype: torch.dtype) -> None:
    images = pictures().to(dtype)
    given = prepare(images, FLOATS)
    assert given.dtype == torch.float32
    assert torch.equal(given, images.float())


def test_arrays_are_taken() -> None:
    array = pictures().numpy()
    assert torch.equal(prepare(array, FLOATS), torch.from_numpy(array))
    assert prepare(array, FLOATS).data_ptr() == array.ctypes.data
    assert torch.equal(prepare(array.astype(np.float64), FLOATS), torch.from_numpy(array))
    flipped = array[:, ::-1, :, ::-1]
    assert torch.equal(prepare(flipped, FLOATS), torch.from_numpy(array).flip(1, 3))
    frozen = array.copy()
    frozen.flags.writeable = False
    assert torch.equal(prepare(frozen, FLOATS), torch.from_numpy(array))


@pytest.mark.parametrize("images", ["bus.jpg", np.array(["x"]), [[1.0], [1.0, 2.0]], None, object()])
def test_what_is_no_array_of_numbers_is_refused(images: Any) -> None:
    with pytest.raises(InputError, match="expected images"):
        prepare(images, FLOATS)


def test_gradients_are_left_behind() -> None:
    assert not prepare(pictures().requires_grad_(), FLOATS).requires_grad


@pytest.mark.parametrize(
    ("shape", "hint"),
    [
        ((2, 4, 5, 3), ": channels first is expected; use images.permute(0, 3, 1, 2)"),
        ((3, 4, 5), ": add the batch's axis with images[None]"),
        ((1, 3, 4, 5), ": this model was exported for batches of 2; export with --batch 1 for this"),
        ((7, 3, 4, 5), ": this model was exported for batches of 2; export with --batch 7 for this"),
        ((2, 3, 5, 4), ""),
        ((2, 1, 4, 5), ""),
        ((), ""),
        ((120,), ""),
    ],
)
def test_a_wrong_shape_is_refused_with_what_to_do(shape: tuple[int, ...], hint: str) -> None:
    with pytest.raises(InputError) as caught:
        prepare(torch.zeros(shape), FLOATS)
    assert str(caught.value) == f"expected images of shape (2, 3, 4, 5), given {shape}{hint}"


def test_channels_first_for_a_model_of_bytes_is_refused_with_what_to_do() -> None:
    with pytest.raises(InputError, match=r"channels last is expected; use images\.permute\(0, 2, 3, 1\)"):
        prepare(torch.zeros(2, 3, 4, 5, dtype=torch.uint8), BYTES)


def test_the_hints_permutations_are_right() -> None:
    last = pictures().permute(0, 2, 3, 1).contiguous()
    assert torch.equal(prepare(last.permute(0, 3, 1, 2), FLOATS), pictures())
    first = torch.randint(0, 256, (2, 3, 4, 5), dtype=torch.uint8)
    assert torch.equal(prepare(first.permute(0, 2, 3, 1), BYTES), first.permute(0, 2, 3, 1))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool, torch.complex64])
def test_what_is_no_float_is_refused_for_a_float_model(dtype: torch.dtype) -> None:
    with pytest.raises(InputError, match=r"expected images of float32, given \w+: divide by 255 .*--input uint8"):
        prepare(torch.zeros(2, 3, 4, 5, dtype=dtype), FLOATS)


@pytest.mark.parametrize("dtype", [torch.float32, torch.int32, torch.int8])
def test_what_is_no_byte_is_refused_for_a_model_of_bytes(dtype: torch.dtype) -> None:
    with pytest.raises(InputError, match=r"expected images of uint8, given \w+: give the image's bytes"):
        prepare(torch.zeros(2, 4, 5, 3, dtype=dtype), BYTES)


@pytest.mark.parametrize("value", [255.0, 2.0, -0.5, 1.02])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_outside_0_to_1_are_refused(value: float, dtype: torch.dtype) -> None:
    images = pictures().to(dtype)
    images[1, 2, 3, 4] = value
    with pytest.raises(InputError, match=r"expected images in 0\.\.1, given .*: divide pixel values by 255"):
        prepare(images, FLOATS)


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_nan_and_infinity_are_told_as_such(value: float) -> None:
    images = pictures()
    images[1, 2, 3, 4] = value
    with pytest.raises(InputError, match=r"expected images in 0\.\.1, given NaN or infinite values") as caught:
        prepare(images, FLOATS)
    assert "255" not in str(caught.value)


@given(st.floats(-0.005, 1.005))
def test_rounding_beyond_the_ends_is_no_mistake(value: float) -> None:
    assert prepare(torch.full(FLOATS.shape, value), FLOATS).shape == FLOATS.shape


def test_a_runner_is_closed_on_the_way_out() -> None:
    closed = []

    class One(BaseRunner):
        def _release(self) -> None:
            closed.append(self)

    with pytest.raises(KeyError), One() as one:
        assert closed == []
        raise KeyError
    assert closed == [one]
