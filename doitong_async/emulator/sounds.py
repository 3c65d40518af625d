"""Makes the output of an AUDIO job: a short, soft melody derived from the text."""

import io
import math
import random
import sys
import wave
from array import array

RATE = 16_000
_NOTE = 0.22
_NOTES = 8
_PENTATONIC = (0, 2, 4, 7, 9, 12, 14, 16)
_A3 = 220.0


def melody(text: str) -> bytes:
    """Return a WAV of under two seconds: plucked notes of a pentatonic scale, mono, 16 bit."""
    rng = random.Random(text)
    pitches = [_A3 * 2 ** (rng.choice(_PENTATONIC) / 12) for _ in range(_NOTES)]
    samples = array("h", (sample for pitch in pitches for sample in _pluck(pitch)))
    if sys.byteorder == "big":
        samples.byteswap()
    sink = io.BytesIO()
    with wave.open(sink, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(RATE)
        sound.writeframes(samples.tobytes())
    return sink.getvalue()


def _pluck(pitch: float) -> list[int]:
    length = int(RATE * _NOTE)
    return [
        round(9_000 * math.exp(-4 * i / length) * min(1.0, i / 80) * math.sin(math.tau * pitch * i / RATE))
        for i in range(length)
    ]
