"""The drawing primitives of every scene: gradients, glows, ridges, layers, reflections."""

import math
import random
from collections.abc import Sequence
from itertools import pairwise

from PIL import Image, ImageChops, ImageDraw, ImageFilter

Color = tuple[int, int, int]
Size = tuple[int, int]
Point = tuple[float, float]

_SMOOTH = 2
"""Edges are drawn this many times too large and reduced, since Pillow's own are jagged."""


def rgb(*codes: str) -> list[Color]:
    """Return colours from their hexadecimal codes."""
    return [(int(code[:2], 16), int(code[2:4], 16), int(code[4:], 16)) for code in codes]


def mix(one: Color, other: Color, share: float) -> Color:
    """Return a mix of two colours; `share` 0 is the first, 1 the second."""
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(one, other, strict=True))
    return red, green, blue


def gradient(size: Size, stops: Sequence[Color]) -> Image.Image:
    """Return a vertical gradient through evenly spaced stops, top first."""
    width, height = size
    column = Image.new("RGB", (1, height))
    for y in range(height):
        position = y / max(1, height - 1) * (len(stops) - 1)
        lower = min(int(position), len(stops) - 2)
        column.putpixel((0, y), mix(stops[lower], stops[lower + 1], position - lower))
    return column.resize((width, height), Image.Resampling.NEAREST)


def glow(image: Image.Image, centre: Point, radius: float, color: Color, strength: float = 1.0) -> None:
    """Draw a soft light that fades to nothing at `radius`."""
    side = max(2, round(2 * radius))
    # Pillow's gradient reaches 255 in the corners only; the light ends at the sides.
    falloff = [round(255 * strength * max(0.0, 1 - value / 180) ** 2.0) for value in range(256)]
    mask = Image.radial_gradient("L").point(falloff).resize((side, side), Image.Resampling.BICUBIC)
    image.paste(color, (round(centre[0] - side / 2), round(centre[1] - side / 2)), mask)


def disc(image: Image.Image, centre: Point, radius: float, stops: Sequence[Color]) -> None:
    """Draw a round sun or moon, shaded from top to bottom."""
    side = max(2, round(2 * radius))
    mask = Image.new("L", (side * _SMOOTH, side * _SMOOTH))
    ImageDraw.Draw(mask).ellipse((0, 0, side * _SMOOTH - 1, side * _SMOOTH - 1), fill=255)
    position = round(centre[0] - side / 2), round(centre[1] - side / 2)
    image.paste(gradient((side, side), stops), position, mask.reduce(_SMOOTH))


def stars(image: Image.Image, rng: random.Random, count: int, depth: float) -> None:
    """Draw stars, few of them bright, thinning out down to `depth` of the height."""
    draw = ImageDraw.Draw(image)
    unit = max(image.size) / 1024
    for _ in range(count):
        x, y = rng.random() * image.width, rng.random() ** 1.4 * depth * image.height
        sky = image.getpixel((int(x), int(y)))
        assert isinstance(sky, tuple)
        light = mix((sky[0], sky[1], sky[2]), (255, 250, 240), rng.random() ** 2 * (1 - y / image.height))
        radius = unit * (0.5 + rng.random() ** 6 * 1.4)
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=light)


def ridge(rng: random.Random, roughness: float, octaves: int = 8) -> list[float]:
    """Return heights between about -1 and 1 from left to right, by midpoint displacement."""
    heights = [rng.uniform(-0.6, 0.6), rng.uniform(-0.6, 0.6)]
    reach = 0.9
    for _ in range(octaves):
        between = [(a + b) / 2 + rng.uniform(-reach, reach) for a, b in pairwise(heights)]
        heights = [value for pair in zip(heights, between, strict=False) for value in pair] + heights[-1:]
        reach *= roughness
    return heights


def swell(rng: random.Random, waves: int = 4, points: int = 160) -> list[float]:
    """Return heights like `ridge`'s, but soft as dunes."""
    parts = [(1.6**n, rng.uniform(0, math.tau), 1.9**-n) for n in range(waves)]
    return [
        sum(size * math.sin(speed * 3.4 * x / points + phase) for speed, phase, size in parts) * 0.6
        for x in range(points + 1)
    ]


def outline(heights: Sequence[float], size: Size, base: float, reach: float) -> list[Point]:
    """Return heights as points of the picture: 0 is at `base`, 1 is `reach` pixels above it."""
    width, _ = size
    last = len(heights) - 1
    return [(width * i / last, base - reach * height) for i, height in enumerate(heights)]


def layer(
    image: Image.Image, top: Sequence[Point], stops: Sequence[Color], extras: Sequence[Sequence[Point]] = ()
) -> None:
    """Fill everything under an outline, and the shapes that stand on it, with a gradient."""
    width, height = image.size
    highest = min(y for shape in (top, *extras) for _, y in shape)
    upper = min(max(0, math.floor(highest)), height - 1)
    mask = Image.new("L", (width * _SMOOTH, (height - upper) * _SMOOTH))
    draw = ImageDraw.Draw(mask)
    ground = [*top, (width, height + 1), (0, height + 1)]
    for shape in (ground, *extras):
        draw.polygon([(x * _SMOOTH, (y - upper) * _SMOOTH) for x, y in shape], fill=255)
    image.paste(gradient((width, height - upper), stops), (0, upper), mask.reduce(_SMOOTH))


def pines(rng: random.Random, top: Sequence[Point], count: int, tallest: float) -> list[list[Point]]:
    """Return firs that stand on an outline, dense here and sparse there."""
    trees = []
    for _ in range(count):
        x, y = top[min(int(rng.betavariate(0.6, 0.6) * len(top)), len(top) - 1)]
        x += rng.uniform(-0.5, 0.5) * tallest
        tall = tallest * rng.uniform(0.45, 1.0)
        trees.append(_pine(x, y + 0.12 * tall, tall))
    return trees


def _pine(x: float, foot: float, tall: float) -> list[Point]:
    left = []
    for step in range(6):
        y = foot - tall * (1 - step * 0.18)
        left += [(0.045 * tall * step, y), (0.045 * tall * step + 0.055 * tall, y + 0.14 * tall)]
    return [(x - dx, y) for dx, y in left] + [(x + dx, y) for dx, y in reversed(left)]


def screen(image: Image.Image, light: Image.Image) -> None:
    """Add light to the picture."""
    image.paste(ImageChops.screen(image, light))


def bloom(image: Image.Image, light: Image.Image, radius: float) -> None:
    """Add lights with a haze around them; the haze is blurred at a small size, which is fast."""
    small = light.resize((max(1, image.width // 4), max(1, image.height // 4)), Image.Resampling.BOX)
    haze = small.filter(ImageFilter.GaussianBlur(radius / 4)).resize(image.size, Image.Resampling.BICUBIC)
    screen(image, ImageChops.add(haze, haze))
    screen(image, light)


def reflect(image: Image.Image, rng: random.Random, shore: int, water: Color, share: float) -> None:
    """Mirror what is above the shore in the water below it, with ripples that widen downwards."""
    depth = image.height - shore
    if depth < 2 or shore < 2:
        return
    mirrored = image.crop((0, 0, image.width, shore)).transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    mirrored = mirrored.crop((0, 0, image.width, min(shore, round(depth * 1.7)))).resize((image.width, depth))
    mirrored = Image.blend(mirrored, Image.new("RGB", mirrored.size, water), 1 - share)
    phase = rng.uniform(0, math.tau)
    strip = max(1, depth // 120)
    for y in range(0, depth, strip):
        near = y / depth
        drift = (1 + 7 * near) * math.sin(phase + 60 * math.sqrt(near)) * image.width / 1400
        row = mirrored.crop((0, y, image.width, min(depth, y + strip)))
        image.paste(ImageChops.offset(row, round(drift), 0), (0, shore + y))
