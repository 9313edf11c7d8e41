"""The twelve products, in the order of the catalog."""

from __future__ import annotations

from dataclasses import replace

from .household import lamp, stool, watering_can
from .parts import Made
from .tableware import bottle, carton, mug, teapot, vase
from .wearables import backpack, boot, headphones, robot


def all_products() -> tuple[Made, ...]:
    """Every product, standing on the plane y = 0 with its bounding box centred on the Y axis."""
    makers = (mug, bottle, boot, carton, lamp, stool, vase, backpack, teapot, robot, headphones, watering_can)
    return tuple(_stand(make()) for make in makers)


def _stand(made: Made) -> Made:
    low, high = made.bounds()
    offset = (-(low[0] + high[0]) / 2, -low[1], -(low[2] + high[2]) / 2)
    return replace(
        made, parts=tuple(replace(part, surface=part.surface.moved(offset)) for part in made.parts)
    )
