"""The price of a job in credits.

For images the service documents 10–20 credits from 512×512 to 1024×1024 pixels, 30–50 from 2048×2048 up, and
50 for flux-dev; between those corners the emulator interpolates linearly by pixels. Prices for video, avatars
and audio are undocumented: they are the emulator's own.
"""

from bisect import bisect_left
from itertools import pairwise

_CORNERS = [(512 * 512, 10), (1024 * 1024, 20), (2048 * 2048, 30), (4096 * 4096, 50)]
_FLUX_DEV = 50
_OWN = {"VIDEO": 100, "AVATAR": 60, "AUDIO": 5}


def price(media_type: str, provider: str, width: int, height: int) -> int:
    """Return the credits for one job; an unknown type costs as much as an image of its size."""
    if media_type in _OWN:
        return _OWN[media_type]
    if provider == "flux-dev":
        return _FLUX_DEV
    return _by_pixels(width * height)


def _by_pixels(pixels: int) -> int:
    index = bisect_left(_CORNERS, (pixels, 0))
    if index == 0:
        return _CORNERS[0][1]
    if index == len(_CORNERS):
        return _CORNERS[-1][1]
    (low, cheap), (high, dear) = list(pairwise(_CORNERS))[index - 1]
    return round(cheap + (dear - cheap) * (pixels - low) / (high - low))
