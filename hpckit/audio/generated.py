"""Sounds that need no network: voices, bursts of noise and chirps, each from its number alone.

They are no speech, and a training on them says nothing of speech; but they have what audio losses
look at: harmonics under formants that move, noise, swells, pauses, levels. A clip's number says its
kind and its voice, so that there is something to tell apart and something to learn.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Samples = NDArray[np.float64]

KINDS = ("voice", "noise", "voice", "chirp", "voice")
VOICES = 10
# Where the first three formants of five vowels lie for a grown man's throat, in Hz.
VOWELS = (
    (730, 1090, 2440),
    (270, 2290, 3010),
    (300, 870, 2240),
    (530, 1840, 2480),
    (570, 840, 2410),
)
BACKGROUND = 1e-4


def kind_of(number: int) -> str:
    return KINDS[number % len(KINDS)]


def voice_of(number: int) -> int:
    return number // len(KINDS) % VOICES


def generate(number: int, *, rate: int, seconds: float, seed: int = 0) -> NDArray[np.float32]:
    """The clip of this number, the same for the same rate, length and seed; it stays below 1."""
    import numpy as np

    draw = np.random.default_rng([seed % 2**63, number])
    make = {"voice": _syllable, "noise": _burst, "chirp": _chirp}[kind_of(number)]
    sound = np.zeros(max(1, round(seconds * rate)))
    at = int(draw.uniform(0, 0.05) * rate)
    while at < len(sound):
        size = int(draw.uniform(0.12, 0.5) * rate)
        event = make(draw, voice_of(number), size, rate) * _swell(draw, size)
        event *= draw.uniform(0.5, 1.0) / max(float(np.sqrt(np.mean(event**2))), 1e-9)
        sound[at : at + size] += event[: len(sound) - at]
        at += int(size * draw.uniform(0.85, 1.25))
    sound *= min(draw.uniform(0.04, 0.12), 0.9 / max(float(np.abs(sound).max()), 1e-9))
    sound += BACKGROUND * draw.standard_normal(len(sound))
    return sound.astype(np.float32)


def _syllable(draw: Any, voice: int, size: int, rate: int) -> Samples:
    """Pulses of a pitch that glides, under the formants of a vowel."""
    import numpy as np

    pitch_hz = 85 * 2 ** (1.6 * voice / VOICES) * draw.uniform(0.85, 1.2, 2)
    turns = np.cumsum(np.linspace(pitch_hz[0], pitch_hz[1], size)) / rate
    # All harmonics below half the rate at once: sin((2n + 1) pi x) / sin(pi x), less the constant.
    harmonics = max(1, int(0.45 * rate / pitch_hz.max()))
    below = np.sin(np.pi * turns)
    below = np.where(np.abs(below) < 1e-6, 1e-6, below)
    pulses = np.sin((2 * harmonics + 1) * np.pi * turns) / below - 1
    throat = 0.9 + 0.35 * voice / VOICES
    vowel = np.array(VOWELS[draw.integers(len(VOWELS))]) * throat
    return _shaped(pulses, vowel, (80, 120, 160), rate)


def _burst(draw: Any, voice: int, size: int, rate: int) -> Samples:
    """Noise around one frequency, as of an s or an f; each voice has its own."""
    centre_hz = 500 * 2 ** (3.2 * voice / VOICES) * draw.uniform(0.9, 1.1)
    return _shaped(draw.standard_normal(size), (centre_hz,), (0.3 * centre_hz,), rate)


def _chirp(draw: Any, voice: int, size: int, rate: int) -> Samples:
    """A tone that rises or falls by up to two octaves, with one overtone."""
    import numpy as np

    start_hz = 200 * 2 ** (2.5 * voice / VOICES)
    course = start_hz * 2 ** np.linspace(0, draw.uniform(-1, 2), size)
    turns = 2 * np.pi * np.cumsum(course) / rate
    sound: Samples = np.sin(turns) + 0.3 * np.sin(2 * turns)
    return sound


def _shaped(sound: Samples, centres_hz: Any, widths_hz: Any, rate: int) -> Samples:
    """The sound through resonances, by way of its spectrum; above half the rate there are none."""
    import numpy as np

    frequency = np.fft.rfftfreq(len(sound), 1 / rate)
    gain = np.zeros_like(frequency)
    for centre, width in zip(centres_hz, widths_hz, strict=True):
        gain += width / centre / (1 + ((frequency - centre) / width) ** 2)
    shaped: Samples = np.fft.irfft(np.fft.rfft(sound) * gain, len(sound))
    return shaped


def _swell(draw: Any, size: int) -> Samples:
    """A rise and a fall, the peak anywhere between."""
    import numpy as np

    place = np.linspace(0, 1, size)
    peak = draw.uniform(0.15, 0.7)
    bent = np.where(place < peak, place / peak, (1 - place) / (1 - peak))
    swell: Samples = np.sin(np.pi / 2 * bent) ** 2
    return swell
