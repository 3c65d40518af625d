"""Draws the visible outputs: a JPEG with its prompt written on it, and short GIFs for video and avatars."""

import io
import math
import random
from unicodedata import combining, normalize

from PIL import Image, ImageDraw, ImageFont

from doitong_async.emulator.scenes import Size, color, gradient, paint

_LARGEST_CANVAS = 1280
_SMALLEST_CANVAS = 256
_SMALLEST_WITH_TEXT = 96
_LINES = 4
_FRAME = (320, 180)
_PORTRAIT = 224
_FRAMES = 16
_NO_LETTER = "\U0010ffff"

_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def picture(prompt: str, provider: str, width: int, height: int) -> bytes:
    """Return a JPEG of exactly this size; equal arguments give an equal picture."""
    image = _scene(prompt, provider, (width, height))
    if min(width, height) >= _SMALLEST_WITH_TEXT:
        _write(image, prompt, f"{provider}  ·  {width} x {height}")
    sink = io.BytesIO()
    image.save(sink, "JPEG", quality=90)
    return sink.getvalue()


def moving_picture(prompt: str, provider: str, *, talking: bool) -> bytes:
    """Return a short endless GIF: a slow pan over a scene, or a talking face."""
    rng = _rng(prompt, provider)
    frames = _talk(rng) if talking else _pan(prompt, rng)
    palette = frames[_FRAMES // 2].quantize(256)
    flat = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    sink = io.BytesIO()
    flat[0].save(sink, "GIF", save_all=True, append_images=flat[1:], duration=90, loop=0)
    return sink.getvalue()


def _rng(prompt: str, provider: str) -> random.Random:
    # A JSON string may hold a lone surrogate, which is not UTF-8 and must not stop the drawing.
    return random.Random(f"{provider}:{prompt}".encode("utf-8", "replace"))


def _scene(prompt: str, provider: str, size: Size) -> Image.Image:
    """Paint larger than requested, which smooths the edges, up to a size that is still quick to paint."""
    longest = max(size)
    factor = min(max(2 * longest, _SMALLEST_CANVAS), _LARGEST_CANVAS) / longest
    canvas = max(8, round(size[0] * factor)), max(8, round(size[1] * factor))
    image = paint(prompt, canvas, _rng(prompt, provider))
    return image if image.size == size else image.resize(size, Image.Resampling.BILINEAR)


def _write(image: Image.Image, prompt: str, caption: str) -> None:
    """Write the prompt in white at the bottom, on a soft shade."""
    width, height = image.size
    size = max(11, round(math.sqrt(width * height) / 30))
    font, small = ImageFont.load_default(size), ImageFont.load_default(max(9, round(size * 0.55)))
    margin = round(size * 1.1)
    max_lines = max(1, int((height * 0.5) / (size * 1.35)))
    lines = wrapped(written(prompt, font), font, width - 2 * margin, min(_LINES, max_lines))
    text = round(len(lines) * size * 1.35)
    _shade(image, text + round(size * 1.6))
    draw = ImageDraw.Draw(image)
    top = height - margin - text - round(size * 0.55)
    for number, line in enumerate(lines):
        draw.text((margin, top + number * size * 1.35), line, fill=(255, 255, 255), font=font)
    draw.text((margin, height - margin), caption, fill=(214, 214, 222), font=small, anchor="ls")


def written(prompt: str, font: _Font) -> str:
    """Return the prompt without what the font cannot write: accents, emoji, Chinese."""
    prompt = "".join(letter for letter in normalize("NFKD", prompt) if not combining(letter))
    absent = bytes(font.getmask(_NO_LETTER))
    legible = {letter: letter.isspace() or bytes(font.getmask(letter)) != absent for letter in set(prompt)}
    return " ".join("".join(letter if legible[letter] else " " for letter in prompt).split())


def wrapped(text: str, font: _Font, width: float, most: int) -> list[str]:
    """Return the text in lines of at most `width` pixels; an ellipsis replaces what exceeds `most` lines."""
    lines: list[str] = []
    rest = text
    while rest and len(lines) < most:
        line = _first_line(rest, font, width)
        lines.append(line)
        rest = rest[len(line) :].strip()
    if rest:
        last = lines[-1]
        while last and font.getlength(last + "…") > width:
            last = last[:-1]
        lines[-1] = last.rstrip(" ,.;") + "…"
    return lines


def _first_line(text: str, font: _Font, width: float) -> str:
    """Return as many whole words as fit; a word longer than a line is cut."""
    end = 1
    while end < len(text) and font.getlength(text[: end + 1]) <= width:
        end += 1
    space = text.rfind(" ", 0, end + 1)
    return text[:space] if end < len(text) and space > 0 else text[:end]


def _shade(image: Image.Image, tall: int) -> None:
    reach = min(image.height, 2 * tall)
    mask = Image.linear_gradient("L").point([min(190, value * 3 // 2) for value in range(256)])
    image.paste((8, 9, 18), (0, image.height - reach), mask.resize((image.width, reach)))


def _pan(prompt: str, rng: random.Random) -> list[Image.Image]:
    width, height = _FRAME
    wide = paint(prompt, (round(width * 1.3), height), rng)
    span = wide.width - width
    lefts = [round(span * (0.5 - 0.5 * math.cos(math.tau * n / _FRAMES))) for n in range(_FRAMES)]
    return [wide.crop((left, 0, left + width, height)) for left in lefts]


def _talk(rng: random.Random) -> list[Image.Image]:
    hue, side = rng.random(), 2 * _PORTRAIT
    skin, dark = color(rng.uniform(0.05, 0.09), rng.uniform(0.3, 0.6), rng.uniform(0.5, 0.95)), (40, 30, 45)
    shirt = color(hue + 0.5, 0.5, 0.6)
    stage = gradient((side, side), [color(hue, 0.2, 0.95), color(hue, 0.5, 0.8)])
    frames = []
    for number in range(_FRAMES):
        frame = stage.copy()
        mouth = 1 + 4 * abs(math.sin(math.tau * number * 1.5 / _FRAMES))
        eyes = [(x, 46.0, 2.6, 3.2, dark) for x in (42.0, 58.0)]
        ovals = [
            (50.0, 104.0, 36.0, 30.0, shirt),
            (50.0, 40.0, 27.0, 29.0, dark),
            (50.0, 48.0, 21.0, 26.0, skin),
        ]
        for x, y, wide, tall, fill in [*ovals, *eyes, (50.0, 62.0, 6.0, mouth, (136, 44, 58))]:
            box = (x - wide, y - tall, x + wide, y + tall)
            ImageDraw.Draw(frame).ellipse([part * side / 100 for part in box], fill=fill)
        frames.append(frame.reduce(2))
    return frames
