"""G.722, a telephone's wide band: 64 kbit/s, of which each byte is two samples at 16 kHz."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from hpckit.errors import HpckitError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

RATE = 16_000


def samples(content: bytes) -> int:
    """How long it is, without decoding it."""
    return 2 * len(content)


def codecs() -> tuple[Any, Any]:
    """What decodes and what writes FLAC; asked for before anything is fetched."""
    try:
        import av
        import soundfile
    except (ImportError, OSError) as error:
        hint = "pip install 'hpckit[audio]'"
        raise HpckitError(f"decoding speech needs av and soundfile: {error}", hint) from error
    return av, soundfile


def to_flac(content: bytes) -> bytes:
    """The same sound, without loss from here on."""
    _, soundfile = codecs()
    flac = io.BytesIO()
    soundfile.write(flac, decoded(content), RATE, format="FLAC")
    return flac.getvalue()


def decoded(content: bytes) -> NDArray[np.int16]:
    import numpy as np

    av, _ = codecs()
    with av.open(io.BytesIO(content), format="g722") as container:
        frames = [frame.to_ndarray()[0] for frame in container.decode(audio=0)]
    return np.concatenate(frames)
