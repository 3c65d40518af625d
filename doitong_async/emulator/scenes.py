"""The scenes that the emulator paints: hills, a skyline, an aurora, the sea, chosen by the prompt's words."""

import math
import random
from collections.abc import Callable

from PIL import Image, ImageDraw

from doitong_async.emulator.canvas import (
    Color,
    Size,
    bloom,
    disc,
    glow,
    gradient,
    layer,
    mix,
    outline,
    pines,
    reflect,
    rgb,
    ridge,
    screen,
    stars,
    swell,
)

Scene = Callable[[Size, random.Random], Image.Image]


def paint(prompt: str, size: Size, rng: random.Random) -> Image.Image:
    """Paint a scene that suits the prompt, or a random one."""
    words = prompt.lower()
    fitting = [scene for scene, hints in _HINTS.items() if any(hint in words for hint in hints)]
    return rng.choice(fitting or list(_HINTS))(size, rng)


def hills(size: Size, rng: random.Random) -> Image.Image:
    """Paint ridges in morning mist with the sun between them."""
    width, height = size
    top, middle, low, sun, far, near = rng.choice(_HILLS)
    image = gradient(size, [top, middle, low, low])
    unit = min(size)
    centre = width * rng.uniform(0.25, 0.75), height * rng.uniform(0.3, 0.42)
    glow(image, centre, 0.75 * unit, sun, 0.75)
    disc(image, centre, 0.085 * unit, [mix(sun, (255, 255, 255), 0.6), sun])
    ridges = 6
    for step in range(ridges):
        depth = step / (ridges - 1)
        color = mix(far, near, depth**1.25)
        heights = ridge(rng, 0.56 - 0.06 * depth) if step < 3 else swell(rng)
        line = outline(heights, size, height * (0.5 + 0.4 * depth), height * (0.12 - 0.07 * depth))
        trees = pines(rng, line, 70, 0.11 * unit) if step == ridges - 1 else []
        layer(image, line, [color, mix(color, mix(low, sun, 0.3), 0.5 * (1 - depth))], trees)
    _birds(image, rng, mix(near, far, 0.2))
    return image


def skyline(size: Size, rng: random.Random) -> Image.Image:
    """Paint a city at dusk: lit towers, neon, trails of flying cars, all mirrored in water."""
    width, height = size
    top, middle, low, moon, haze, neon, second = rng.choice(_CITIES)
    image = gradient(size, [top, middle, low, low])
    unit = min(size)
    stars(image, rng, 140, 0.5)
    centre = width * rng.uniform(0.3, 0.7), height * rng.uniform(0.3, 0.42)
    glow(image, centre, 0.6 * unit, moon, 0.6)
    disc(image, centre, 0.16 * unit, [mix(moon, (255, 255, 255), 0.5), mix(moon, low, 0.45)])
    shore = round(0.8 * height)
    glow(image, (width / 2, shore), 0.7 * width, low, 0.7)
    for depth in (0.0, 0.5, 1.0):
        _towers(image, rng, shore, mix(haze, top, 0.25 + 0.7 * depth), depth, (neon, second))
    _traffic(image, rng, (neon, second))
    reflect(image, rng, shore, mix(top, (0, 0, 0), 0.35), 0.6)
    return image


def aurora(size: Size, rng: random.Random) -> Image.Image:
    """Paint northern lights over snowy mountains and a still lake."""
    height = size[1]
    top, low, peak, green, violet = rng.choice(_AURORAS)
    image = gradient(size, [top, mix(top, low, 0.4), low])
    unit = min(size)
    stars(image, rng, 420, 0.7)
    for _ in range(3):
        _curtain(image, rng, green, violet)
    shore = round(0.76 * height)
    for depth in (0.0, 0.5):
        color = mix(peak, top, 0.15 + 0.6 * depth)
        line = outline(ridge(rng, 0.54), size, height * (0.62 + 0.1 * depth), height * (0.16 - 0.08 * depth))
        layer(image, line, [mix(color, (235, 245, 255), 0.25 * (1 - depth)), color])
    dark = mix(top, (0, 0, 0), 0.45)
    bank = outline(swell(rng), size, shore - 0.02 * height, 0.02 * height)
    layer(image, bank, [dark, dark], pines(rng, bank, 90, 0.12 * unit))
    reflect(image, rng, shore, dark, 0.65)
    return image


def sea(size: Size, rng: random.Random) -> Image.Image:
    """Paint the sun on the horizon of a calm sea, its path of light, and a sail."""
    width, height = size
    top, middle, low, sun, deep = rng.choice(_SEAS)
    image = gradient(size, [top, middle, low, mix(low, sun, 0.4)])
    unit = min(size)
    shore = round(0.6 * height)
    centre = width * rng.uniform(0.3, 0.7), shore - 0.07 * unit
    glow(image, centre, 0.9 * unit, sun, 0.8)
    disc(image, centre, 0.13 * unit, [mix(sun, (255, 255, 255), 0.55), sun])
    for base in (0.0, 0.035):
        line = outline(ridge(rng, 0.5, 7), size, shore - (0.03 - base) * height, 0.035 * height)
        layer(image, line, [mix(low, deep, 0.35 + 8 * base), mix(low, deep, 0.25 + 8 * base)])
    image.paste(gradient((width, height - shore), [mix(low, deep, 0.45), deep]), (0, shore))
    _glitter(image, rng, centre[0], shore, mix(sun, (255, 255, 255), 0.3))
    _sail(image, width * rng.choice((0.16, 0.84)), shore + 0.06 * height, 0.13 * unit, mix(deep, top, 0.3))
    _birds(image, rng, mix(deep, top, 0.3))
    return image


def _birds(image: Image.Image, rng: random.Random, color: Color) -> None:
    draw = ImageDraw.Draw(image)
    unit = min(image.size)
    x, y = image.width * rng.uniform(0.15, 0.75), image.height * rng.uniform(0.14, 0.3)
    for _ in range(rng.randint(4, 7)):
        bx, by = x + rng.uniform(-0.12, 0.12) * unit, y + rng.uniform(-0.06, 0.06) * unit
        span = unit * rng.uniform(0.008, 0.018)
        curve = [(n / 8 * span, 0.55 * span * math.sin(2.4 * n / 8)) for n in range(9)]
        wings = [(bx - dx, by - dy) for dx, dy in reversed(curve)] + [(bx + dx, by - dy) for dx, dy in curve]
        draw.line(wings, fill=color, width=max(1, round(unit / 400)), joint="curve")


def _towers(
    image: Image.Image, rng: random.Random, shore: int, color: Color, depth: float, neons: tuple[Color, ...]
) -> None:
    width, height = image.size
    unit = min(image.size)
    draw = ImageDraw.Draw(image)
    lights = Image.new("RGB", image.size)
    pen = ImageDraw.Draw(lights)
    x = -0.02 * unit
    while x < width:
        wide = unit * rng.uniform(0.04, 0.085) * (0.8 + 0.5 * depth)
        middle = 1 - abs((x + wide / 2) / width - 0.5) * 0.9
        roof = shore - height * rng.uniform(0.1, 0.48 - 0.17 * depth) * middle
        draw.rectangle((x, roof, x + wide, shore), fill=color)
        _roof(draw, rng, (x, roof, wide), color)
        if depth:
            _windows(pen, rng, (x, roof, x + wide, shore), unit, depth)
        if depth and rng.random() < 0.35:
            edge = x + wide * rng.choice((0.0, 1.0))
            pen.line((edge, roof, edge, shore), fill=rng.choice(neons), width=max(1, round(unit / 350)))
        x += wide * rng.uniform(1.0, 1.25)
    bloom(image, lights, unit / 60)


def _roof(
    draw: ImageDraw.ImageDraw, rng: random.Random, building: tuple[float, float, float], color: Color
) -> None:
    x, roof, wide = building
    shape = rng.random()
    if shape < 0.3:
        draw.rectangle(
            (x + wide * 0.46, roof - wide * rng.uniform(0.5, 1.2), x + wide * 0.54, roof), fill=color
        )
    elif shape < 0.55:
        draw.rectangle((x + wide * 0.2, roof - wide * 0.3, x + wide * 0.8, roof), fill=color)
    elif shape < 0.75:
        draw.polygon(
            [(x, roof), (x + wide * rng.choice((0.0, 1.0)), roof - wide * 0.6), (x + wide, roof)], fill=color
        )


def _windows(
    pen: ImageDraw.ImageDraw,
    rng: random.Random,
    wall: tuple[float, float, float, float],
    unit: int,
    depth: float,
) -> None:
    left, top, right, bottom = wall
    pitch = max(3.0, unit * 0.011 * (0.8 + 0.4 * depth))
    warm = rng.choice(rgb("ffd58a", "ffe9c4", "9fd8ff", "ffc2d8"))
    lit = rng.uniform(0.2, 0.6)
    columns, rows = int((right - left) / pitch) - 1, int((bottom - top) / (1.4 * pitch)) - 1
    x0 = left + (right - left - columns * pitch) / 2
    for column in range(columns):
        for row in range(rows):
            if rng.random() < lit:
                x, y = x0 + (column + 0.2) * pitch, top + (row + 0.7) * 1.4 * pitch
                shade = mix((0, 0, 0), warm, rng.uniform(0.25, 0.85) * (0.55 + 0.45 * depth))
                pen.rectangle((x, y, x + 0.5 * pitch, y + 0.6 * pitch), fill=shade)


def _traffic(image: Image.Image, rng: random.Random, neons: tuple[Color, ...]) -> None:
    """Paint flying cars, each a bright head on a fading trail."""
    lights = Image.new("RGB", image.size)
    pen = ImageDraw.Draw(lights)
    width, height = image.size
    unit = min(image.size)
    for _ in range(9):
        x, y = width * rng.uniform(0.05, 0.95), height * rng.uniform(0.16, 0.62)
        length, slope = unit * rng.uniform(0.1, 0.28) * rng.choice((-1, 1)), rng.uniform(-0.12, 0.12)
        color = rng.choice(neons)
        steps = 24
        for step in range(steps):
            near, far = step / steps, (step + 1) / steps
            bend = slope * length
            ends = (x + length * near, y + bend * near**2, x + length * far, y + bend * far**2)
            pen.line(ends, fill=mix((0, 0, 0), color, far**2), width=max(1, round(unit / 300)))
        head, size = (x + length, y + slope * length), unit / 260
        pen.ellipse((head[0] - size, head[1] - size, head[0] + size, head[1] + size), fill=(255, 255, 255))
    bloom(image, lights, unit / 70)


def _curtain(image: Image.Image, rng: random.Random, green: Color, violet: Color) -> None:
    columns, rows = 256, 192
    mask = Image.new("L", (columns, rows))
    ray = Image.linear_gradient("L")
    path, streaks = swell(rng, 3, columns), ridge(rng, 0.75)
    base, reach = rows * rng.uniform(0.4, 0.52), rows * rng.uniform(0.06, 0.14)
    for x in range(columns):
        foot = round(base - reach * path[x])
        tall = max(4, round(rows * (0.3 + 0.16 * streaks[x])))
        power = min(1.0, max(0.08, 0.55 + 0.45 * streaks[x])) * math.sin(math.pi * x / columns) ** 0.4
        fade = [round(power * 215 * (value / 255) ** 1.7) for value in range(256)]
        mask.paste(ray.resize((1, tall)).point(fade), (x, foot - tall))
        mask.paste(ray.resize((1, 30)).transpose(Image.Transpose.FLIP_TOP_BOTTOM).point(fade), (x, foot))
    mask = mask.resize(image.size, Image.Resampling.BICUBIC)
    colors = gradient(image.size, [violet, violet, green, green, green])
    light = Image.new("RGB", image.size)
    light.paste(colors, (0, 0), mask)
    screen(image, light)


def _glitter(image: Image.Image, rng: random.Random, x: float, shore: int, light: Color) -> None:
    lights = Image.new("RGB", image.size)
    pen = ImageDraw.Draw(lights)
    unit, depth = min(image.size), image.height - shore
    for _ in range(650):
        near = rng.random() ** 1.3
        y = shore + near * depth
        off = rng.gauss(0, 0.05 + 0.13 * near) * unit
        half = unit * (0.004 + 0.022 * near) * rng.uniform(0.4, 1.0)
        shade = mix((0, 0, 0), light, rng.uniform(0.15, 0.8) * math.exp(-abs(off) / (0.22 * unit)))
        pen.line(
            (x + off - half, y, x + off + half, y),
            fill=shade,
            width=max(1, round(unit * (0.001 + 0.003 * near))),
        )
    bloom(image, lights, unit / 80)


def _sail(image: Image.Image, x: float, y: float, tall: float, color: Color) -> None:
    hull = [(x - 0.42 * tall, y - 0.1 * tall), (x + 0.45 * tall, y - 0.12 * tall)]
    hull += [(x + 0.3 * tall, y), (x - 0.28 * tall, y)]
    main = [(x, y - 0.14 * tall), (x, y - tall), (x + 0.4 * tall, y - 0.16 * tall)]
    jib = [
        (x - 0.04 * tall, y - 0.14 * tall),
        (x - 0.04 * tall, y - 0.85 * tall),
        (x - 0.36 * tall, y - 0.14 * tall),
    ]
    draw = ImageDraw.Draw(image)
    draw.polygon(hull, fill=mix(color, (0, 0, 0), 0.3))
    for shape in (main, jib):
        draw.polygon(shape, fill=mix(color, (255, 246, 232), 0.8))


_HINTS: dict[Scene, tuple[str, ...]] = {
    hills: ("mountain", "hill", "forest", "fox", "morning", "mist", "valley", "tree", "landscape", "garden"),
    skyline: ("city", "neon", "street", "cyber", "tower", "building", "car", "robot", "future", "futuristic"),
    aurora: ("aurora", "night", "star", "space", "winter", "snow", "galaxy", "moon", "dream", "north"),
    sea: ("sea", "ocean", "beach", "island", "ship", "boat", "sunset", "wave", "water", "coast"),
}
_HILLS = [
    rgb("2b2d5b", "8a5a83", "f7a072", "ffe2b8", "cf8f8a", "1f2144"),
    rgb("0f4c5c", "5fa8a3", "f4e3b2", "fff6dc", "8fbfae", "0b2f36"),
    rgb("3d2c5e", "c06c84", "f8b195", "fff0e0", "b9809a", "2a1b3d"),
    rgb("254e70", "8fb8c9", "ffe0a3", "fffbe6", "9fb8b0", "17352f"),
]
_CITIES = [
    rgb("0b0b2a", "3a1c5e", "e0558a", "ffc28a", "7a3a78", "22e6ff", "ff3fa4"),
    rgb("041226", "0f3a5a", "f08a5d", "ffdf9e", "315a74", "ffb347", "4de3ff"),
    rgb("120824", "4b1f6f", "ff7e5f", "ffd3a5", "6a3d7c", "8affc1", "ff5fd2"),
]
_AURORAS = [
    rgb("050a1c", "12405a", "24466a", "46f0a0", "9a5cff"),
    rgb("080720", "2a2f6a", "3a3f78", "4ff0d0", "ff5fb0"),
    rgb("03121a", "0d4a4a", "1f4f5c", "8cff7a", "3fa8ff"),
]
_SEAS = [
    rgb("2c2a5a", "b0567a", "ff9a62", "ffe0a0", "14284a"),
    rgb("1b3a5c", "6fa3b8", "ffd49a", "fff2cf", "0f3a50"),
    rgb("2a1842", "8a3a6a", "ff7a5a", "ffd08a", "1c1638"),
]
