"""What the device cannot augment."""

from __future__ import annotations

import pytest
import torchio as tio

from lightning_pocket.data.on_device.draw import RecipeDrawer
from lightning_pocket.errors import PocketError


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        (tio.RandomMotion(), "RandomMotion cannot be done on the device, which knows RandomAffine"),
        (tio.RandomNoise(include=["image"]), "RandomNoise has include"),
        (tio.RandomFlip(axes=("Left",)), "axes ('Left',), expected numbers"),
        (tio.RandomAffine(image_interpolation="bspline"), "interpolates images bspline and labels nearest"),
        (tio.RandomAffineElasticDeformation(True, {"default_pad_value": "otsu"}), "pads with otsu"),
    ],
)
def test_what_the_device_cannot_do_is_refused(transform, message):
    with pytest.raises(PocketError) as caught:
        RecipeDrawer([transform])
    assert message in str(caught.value)
    assert "data.init_args.augment_on" in str(caught.value)
