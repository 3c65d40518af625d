"""The scenes that the emulator paints: hills, a city or the sea, in colours that follow from the prompt."""

import colorsys
import math
import random
from collections.abc import Callable, Sequence
from typing import NamedTuple

from PIL import Image, ImageDraw

Color = tuple[int, int, int]
Size = tuple[int, int]


class Palette(NamedTuple):
    """The colours of one picture: the sky at the top and the horizon, the light, what is dark before it."""

    top: Color
    low: Color
    light: Color
    dark: Color


Scene = Callable[[Image.Image, random.Random, Palette], None]


def paint(prompt: str, size: Size, rng: random.Random) -> Image.Image:
    """Paint a scene that suits the prompt, or a random one."""
    words = prompt.lower()
    fitting = [scene for scene, hints in _HINTS.items() if any(hint in words for hint in hints)]
    scene = rng.choice(fitting or list(_HINTS))
    hue, drift = rng.random(), rng.choice((-0.14, 0.14))
    low = hue + drift
    palette = Palette(
        color(hue, 0.7, 0.35), color(low, 0.5, 0.95), color(low, 0.15, 1), color(hue, 0.7, 0.13)
    )
    image = gradient(size, [palette.top, mix(palette.top, palette.low, 0.5), palette.low, palette.low])
    scene(image, rng, palette)
    return image


def hills(image: Image.Image, rng: random.Random, palette: Palette) -> None:
    """Paint ridges in morning mist, and the sun behind them."""
    width, height = image.size
    _sun(image, palette, (rng.uniform(0.25, 0.75), rng.uniform(0.3, 0.42)), 0.09)
    draw = ImageDraw.Draw(image)
    for depth in (0.0, 0.25, 0.5, 0.75, 1.0):
        waves = [(2.2**n, rng.uniform(0, math.tau), 2.1**-n) for n in range(7)]
        base, reach = height * (0.52 + 0.36 * depth), height * (0.1 - 0.05 * depth)
        ridge = [
            (x, base - reach * sum(high * math.sin(speed * 3 * x / width + at) for speed, at, high in waves))
            for x in range(0, width + 8, 8)
        ]
        fill = mix(palette.low, palette.dark, 0.2 + 0.75 * depth)
        draw.polygon([*ridge, (width + 8, height), (0, height)], fill=fill)


def city(image: Image.Image, rng: random.Random, palette: Palette) -> None:
    """Paint rows of towers with lit windows before a large moon."""
    width, height = image.size
    _sun(image, palette, (rng.uniform(0.3, 0.7), rng.uniform(0.3, 0.42)), 0.16)
    draw, unit = ImageDraw.Draw(image), min(width, height)
    for depth in (0.0, 0.5, 1.0):
        x, wall = -0.02 * unit, mix(palette.top, palette.dark, depth)
        while x < width:
            wide = unit * rng.uniform(0.06, 0.12)
            roof = height * rng.uniform(0.35 + 0.25 * depth, 0.65 + 0.15 * depth)
            draw.rectangle((x, roof, x + wide, height), fill=wall)
            if rng.random() < 0.3:
                draw.rectangle((x + 0.48 * wide, roof - wide, x + 0.52 * wide, roof), fill=wall)
            if depth:
                _windows(draw, rng, (x, roof, x + wide, height), mix(wall, palette.light, 0.4 + 0.5 * depth))
            x += wide * rng.uniform(1.0, 1.3)


def _windows(
    draw: ImageDraw.ImageDraw, rng: random.Random, wall: tuple[float, float, float, float], light: Color
) -> None:
    left, top, right, bottom = wall
    pitch = (right - left) / rng.choice((4, 5, 6))
    columns, rows = round((right - left) / pitch) - 1, int((bottom - top) / (1.4 * pitch)) - 1
    for row in range(rows):
        for column in range(columns):
            if rng.random() < 0.4:
                x, y = left + (column + 0.75) * pitch, top + (row + 0.7) * 1.4 * pitch
                draw.rectangle((x, y, x + 0.5 * pitch, y + 0.6 * pitch), fill=light)


def sea(image: Image.Image, rng: random.Random, palette: Palette) -> None:
    """Paint the sun on the horizon of a calm sea, its path of light, and a sail."""
    width, height = image.size
    shore, across, unit = round(0.6 * height), rng.uniform(0.3, 0.7), min(width, height)
    _sun(image, palette, (across, 0.56), 0.13)
    water = [mix(palette.low, palette.dark, 0.4), palette.dark]
    image.paste(gradient((width, height - shore), water), (0, shore))
    draw = ImageDraw.Draw(image)
    for _ in range(220):
        near = rng.random() ** 1.3
        x, y = width * across + rng.gauss(0, 0.05 + 0.13 * near) * unit, shore + near * (height - shore)
        half = unit * (0.004 + 0.02 * near)
        light = mix(water[0], palette.light, rng.uniform(0.2, 0.8))
        draw.line((x - half, y, x + half, y), fill=light, width=max(1, round(0.004 * unit * near)))
    x, y, tall = width * rng.choice((0.16, 0.84)), shore + 0.06 * height, 0.13 * unit
    draw.polygon([(x, y - 0.14 * tall), (x, y - tall), (x + 0.4 * tall, y - 0.16 * tall)], fill=palette.light)
    draw.chord((x - 0.4 * tall, y - 0.3 * tall, x + 0.5 * tall, y), 0, 180, fill=palette.dark)


def _sun(image: Image.Image, palette: Palette, at: tuple[float, float], size: float) -> None:
    """Paint a sun or moon in its glow; `at` and `size` are shares of the picture and its shorter side."""
    unit = min(image.size)
    x, y = image.width * at[0], image.height * at[1]
    side = max(2, round(1.4 * unit))
    # Pillow's gradient reaches 255 in the corners only; the light ends at the sides.
    falloff = [round(180 * max(0.0, 1 - value / 180) ** 2) for value in range(256)]
    mask = Image.radial_gradient("L").point(falloff).resize((side, side), Image.Resampling.BILINEAR)
    image.paste(palette.light, (round(x - side / 2), round(y - side / 2)), mask)
    radius = size * unit
    ImageDraw.Draw(image).ellipse((x - radius, y - radius, x + radius, y + radius), fill=palette.light)


def gradient(size: Size, stops: Sequence[Color]) -> Image.Image:
    """Return a vertical gradient through evenly spaced stops, top first."""
    column = Image.new("RGB", (1, len(stops)))
    column.putdata(stops)
    # Half a stop at each end is outside the box, so that the first and the last stop are at the edges.
    column = column.resize((1, size[1]), Image.Resampling.BILINEAR, box=(0, 0.5, 1, len(stops) - 0.5))
    return column.resize(size, Image.Resampling.NEAREST)


def mix(one: Color, other: Color, share: float) -> Color:
    """Return a mix of two colours; `share` 0 is the first, 1 the second."""
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(one, other, strict=True))
    return red, green, blue


def color(hue: float, saturation: float, value: float) -> Color:
    """Return a colour; each argument goes from 0 to 1, and the hue around."""
    red, green, blue = (round(255 * part) for part in colorsys.hsv_to_rgb(hue % 1, saturation, value))
    return red, green, blue


_HINTS: dict[Scene, tuple[str, ...]] = {
    hills: ("mountain", "hill", "forest", "fox", "morning", "snow", "valley", "tree", "landscape", "garden"),
    city: ("city", "neon", "street", "tower", "building", "car", "robot", "futur", "night", "star"),
    sea: ("sea", "ocean", "beach", "island", "ship", "boat", "sunset", "wave", "water", "coast"),
}
