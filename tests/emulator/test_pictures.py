"""The outputs: real files of the requested kind and size, reproducible for any prompt."""

import io
import wave

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFont

from doitong_async.emulator.gallery import content
from doitong_async.emulator.pictures import picture, wrapped, written

FONT = ImageFont.load_default(20)


@pytest.mark.slow
@pytest.mark.parametrize(
    "size", [(1, 1), (3, 1000), (1000, 3), (64, 64), (96, 128), (512, 256), (1024, 1024), (2048, 1024)]
)
@pytest.mark.parametrize("prompt", ["a city", "a misty hill", "a starry night", "a boat at sea"])
def test_picture_has_exactly_the_requested_size(prompt: str, size: tuple[int, int]) -> None:
    """A JPEG, at any size and for every scene."""
    image = Image.open(io.BytesIO(picture(prompt, "flux-pro", *size)))
    assert (image.format, image.size) == ("JPEG", size)


def test_picture_follows_from_its_prompt() -> None:
    """The same prompt gives the same bytes; another prompt or provider does not."""
    first, again = (picture("a fox", "flux-pro", 200, 200) for _ in range(2))
    assert first == again
    assert first != picture("a hare", "flux-pro", 200, 200)
    assert first != picture("a fox", "flux-krea", 200, 200)


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(st.text(st.characters(), min_size=1, max_size=300))
def test_any_prompt_can_be_drawn(prompt: str) -> None:
    """Emoji, Chinese, Arabic, half surrogates, control characters, one endless word."""
    assert picture(prompt, "flux-pro", 160, 120)


def test_characters_without_a_glyph_are_left_out() -> None:
    """No boxes appear; an accented character loses its accent rather than disappearing."""
    assert written("🦊 a red\nfox 狐狸 at the café ثعلب", FONT) == "a red fox at the cafe"
    assert written("\ud800", FONT) == ""


def test_text_is_wrapped_at_words() -> None:
    """Every line fits; an ellipsis replaces the rest."""
    lines = wrapped("a very long prompt " * 20, FONT, 300, 3)
    assert len(lines) == 3
    assert all(FONT.getlength(line) <= 300 for line in lines)
    assert lines[0].endswith(("a", "very", "long", "prompt"))
    assert lines[-1].endswith("…")


def test_word_longer_than_a_line_is_split() -> None:
    """No character is lost."""
    assert "".join(wrapped("w" * 40, FONT, 200, 9)) == "w" * 40


@pytest.mark.parametrize("media_type", ["VIDEO", "AVATAR"])
def test_moving_pictures_move(media_type: str) -> None:
    """An endless GIF of several frames."""
    gif = Image.open(io.BytesIO(content(media_type, "the sea", "kling", 1024, 1024)))
    assert gif.format == "GIF"
    assert getattr(gif, "n_frames", 1) > 8
    assert gif.info["loop"] == 0


def test_audio_is_a_wave_file() -> None:
    """It is short, and not silent."""
    with wave.open(io.BytesIO(content("AUDIO", "hello", "elevenlabs", 1, 1))) as sound:
        assert 1 < sound.getnframes() / sound.getframerate() < 3
        assert max(sound.readframes(4_000)) > 0
