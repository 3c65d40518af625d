"""Draws the visible outputs: a JPEG with its prompt written on it, and short GIFs for video and avatars."""

import io
import math
import random
from unicodedata import combining, normalize

from PIL import Image, ImageDraw, ImageFont

from doitong_async.emulator.canvas import Color, Point, Size, disc, glow, gradient, mix, rgb
from doitong_async.emulator.scenes import paint

_LARGEST_CANVAS = 1280
_SMALLEST_CANVAS = 256
_SMALLEST_WITH_TEXT = 96
_LINES = 4
_FRAME = (320, 180)
_PORTRAIT = (224, 224)
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
    palette = _beside(frames).quantize(256)
    flat = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    sink = io.BytesIO()
    flat[0].save(sink, "GIF", save_all=True, append_images=flat[1:], duration=90, loop=0)
    return sink.getvalue()


def _rng(prompt: str, provider: str) -> random.Random:
    # A JSON string may hold a lone surrogate, which is not UTF-8 and must not stop the drawing.
    return random.Random(f"{provider}:{prompt}".encode("utf-8", "replace"))


def _scene(prompt: str, provider: str, size: Size) -> Image.Image:
    """Paint at a handy size and scale to the requested one: painting time grows with the pixels."""
    longest = max(size)
    factor = min(max(longest, _SMALLEST_CANVAS), _LARGEST_CANVAS) / longest
    canvas = max(8, round(size[0] * factor)), max(8, round(size[1] * factor))
    image = paint(prompt, canvas, _rng(prompt, provider))
    return image if image.size == size else image.resize(size, Image.Resampling.BICUBIC)


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
    width, height = image.size
    reach = min(height, round(tall * 1.9))
    solid = min(1.0, tall / reach)
    column = [round(190 * min(1.0, y / (reach * (1 - solid * 0.75) + 1)) ** 1.5) for y in range(reach)]
    mask = Image.new("L", (1, reach))
    mask.putdata(column)
    image.paste((8, 9, 18), (0, height - reach), mask.resize((width, reach)))


def _beside(frames: list[Image.Image]) -> Image.Image:
    """Return all frames in one picture, so that one palette covers all their colours."""
    width, height = frames[0].size
    strip = Image.new("RGB", (width * len(frames), height))
    for number, frame in enumerate(frames):
        strip.paste(frame, (number * width, 0))
    return strip


def _pan(prompt: str, rng: random.Random) -> list[Image.Image]:
    width, height = _FRAME
    wide = paint(prompt, (round(width * 1.3), height), rng)
    span = wide.width - width
    lefts = [round(span * (0.5 - 0.5 * math.cos(math.tau * n / _FRAMES))) for n in range(_FRAMES)]
    return [wide.crop((left, 0, left + width, height)) for left in lefts]


def _talk(rng: random.Random) -> list[Image.Image]:
    skin, hair, shirt, back = (rng.choice(rgb(*codes)) for codes in (_SKINS, _HAIRS, _SHIRTS, _BACKS))
    stage = gradient((_PORTRAIT[0] * 2, _PORTRAIT[1] * 2), [mix(back, (255, 255, 255), 0.45), back])
    frames = []
    for number in range(_FRAMES):
        frame = stage.copy()
        open_ = abs(math.sin(math.tau * number * 3 / _FRAMES)) * (0.4 + 0.6 * (number % 5) / 4)
        _face(frame, (skin, hair, shirt), open_, blink=number == 11)
        frames.append(frame.reduce(2))
    return frames


def _face(frame: Image.Image, colors: tuple[Color, Color, Color], mouth: float, *, blink: bool) -> None:
    skin, hair, shirt = colors
    unit = frame.width / 100
    draw = ImageDraw.Draw(frame)

    def oval(centre: Point, rx: float, ry: float, color: Color) -> None:
        x, y = centre
        draw.ellipse(((x - rx) * unit, (y - ry) * unit, (x + rx) * unit, (y + ry) * unit), fill=color)

    glow(frame, (50 * unit, 45 * unit), 55 * unit, (255, 255, 255), 0.5)
    oval((50, 42), 25, 28, hair)
    oval((50, 104), 34, 28, shirt)
    draw.rounded_rectangle(
        (43 * unit, 58 * unit, 57 * unit, 84 * unit), 7 * unit, fill=mix(skin, (90, 40, 30), 0.2)
    )
    oval((50, 48), 19.5, 24, skin)
    draw.chord((29 * unit, 14 * unit, 71 * unit, 58 * unit), 188, 352, fill=hair)
    for x in (42, 58):
        oval((x, 48), 2.6, 0.5 if blink else 3.2, (40, 34, 48))
        oval((x, 57), 3.6, 2.2, mix(skin, (255, 110, 110), 0.28))
    oval((50, 63), 6 - mouth, 0.9 + 4 * mouth, (136, 44, 58))
    if mouth > 0.3:
        disc(frame, (50 * unit, (61 + 6 * mouth) * unit), 1.5 * unit * mouth, rgb("e8909a", "d87884"))


_SKINS = ("f6d2b8", "e3b08c", "c68a63", "8f5b3e")
_HAIRS = ("2b2028", "5a3424", "b5783c", "6a6a78")
_SHIRTS = ("3d5a80", "8a4f7d", "3a7d6b", "c9653f")
_BACKS = ("8fb8de", "d8a7b1", "9ccbb5", "e9c48c")
