"""Each loss is what its formula says, and none of them breaks at digital silence."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torchaudio

from hpckit.audio import losses

RATE = 16_000


def noise(*shape, seed=0, amplitude=0.1):
    generator = torch.Generator().manual_seed(seed)
    return amplitude * torch.randn(*shape, generator=generator)


def penalty_of(form, limit=None):
    def loss(estimate, target):
        r = losses.correlation(estimate, target)
        return losses.correlation_penalty(r, form=form, limit=limit).mean()

    return loss


LOSSES = {
    "stft": losses.MultiResolutionSTFT(),
    "linear stft": losses.MultiResolutionSTFT(form="linear"),
    "mel": losses.MelL1(losses.LogMel(RATE)),
    "rms": losses.rms_loss,
    "envelope": losses.envelope_loss,
    "correlation": lambda estimate, target: losses.correlation(estimate, target).mean(),
    "penalty": penalty_of("tangent"),
    "penalty of log": penalty_of("log"),
    "envelopes' penalty": lambda estimate, target: penalty_of("tangent")(
        losses.envelope(estimate), losses.envelope(target)
    ),
    "si_sdr": lambda estimate, target: losses.si_sdr(estimate, target).mean(),
    "balance": lambda estimate, target: losses.balance(
        losses.rms(estimate), losses.rms(target)
    ).mean(),
}
QUIET = torch.zeros(2, 8000)
FAINT = noise(2, 8000, amplitude=1e-8)
LOUD = noise(2, 8000, seed=1)
PAIRS = {
    "silence and silence": (QUIET, QUIET),
    "silence for a sound": (QUIET, LOUD),
    "a sound for silence": (LOUD, QUIET),
    "a sound and itself": (LOUD, LOUD),
    "1e-8 and 1e-8": (FAINT, noise(2, 8000, seed=2, amplitude=1e-8)),
    "1e-8 and itself": (FAINT, FAINT),
    "1e-8 for a sound": (FAINT, LOUD),
    "a sound for 1e-8": (LOUD, FAINT),
    "one silent sound of two": (LOUD * torch.tensor([[0.0], [1.0]]), LOUD),
}


def gradient(loss, estimate, target):
    estimate = estimate.clone().requires_grad_()
    value = loss(estimate, target)
    value.backward()
    assert estimate.grad is not None
    return value.detach(), estimate.grad


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("name", LOSSES)
def test_silence_gives_finite_values_and_small_gradients(name, pair):
    value, slope = gradient(LOSSES[name], *PAIRS[pair])
    assert torch.isfinite(value)
    assert torch.isfinite(slope).all()
    assert slope.norm() < 2000


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_goes_down_along_its_gradient(name):
    """Which a gradient that is cut off, or of the wrong sign, would not show."""
    estimate, target = noise(2, 8000), noise(2, 8000, seed=1) + 0.5 * noise(2, 8000)
    value, slope = gradient(LOSSES[name], estimate, target)
    there, _ = gradient(LOSSES[name], estimate - 1e-3 * slope / slope.norm(), target)
    assert slope.norm() > 0
    assert there < value


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", LOSSES)
def test_under_autocast_a_loss_is_that_of_float32(name, kind):
    halves = [each.to(kind) for each in (LOUD, noise(2, 8000, seed=3))]
    alone = LOSSES[name](*(each.float() for each in halves))
    with torch.autocast("cpu", torch.bfloat16):
        found = LOSSES[name](*halves)
    assert found.dtype == torch.float32
    assert torch.equal(found, alone)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_on_a_gpu_every_loss_is_what_it_is_on_the_cpu():
    other = noise(2, 8000, seed=3)
    for name, loss in LOSSES.items():
        here = loss(LOUD, other)
        there = loss.cuda() if isinstance(loss, torch.nn.Module) else loss
        with torch.autocast("cuda", torch.float16):
            found = there(LOUD.cuda(), other.cuda())
        if isinstance(loss, torch.nn.Module):
            loss.cpu()
        assert found.item() == pytest.approx(here.item(), rel=1e-3, abs=1e-4), name


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_works_in_float64_and_agrees_with_float32(name):
    narrow = LOSSES[name](LOUD, noise(2, 8000, seed=3))
    wide = LOSSES[name](LOUD.double(), noise(2, 8000, seed=3).double())
    assert wide.dtype == torch.float64
    assert wide.item() == pytest.approx(narrow.item(), rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("name", ["stft", "linear stft", "mel", "rms", "envelope"])
def test_of_like_sounds_a_loss_is_nothing(name):
    assert LOSSES[name](LOUD, LOUD) == 0


@pytest.mark.parametrize("name", ["stft", "linear stft", "mel", "envelope"])
@pytest.mark.parametrize("shape", [(300,), (1, 300), (2, 3, 300)])
def test_sounds_may_be_short_and_have_any_leading_dimensions(name, shape):
    assert torch.isfinite(LOSSES[name](noise(*shape), noise(*shape, seed=1)))


def spectrum(sound, n_fft, hop, length):
    """Short-time magnitudes, frame by frame, from numpy's Fourier transform alone."""
    left = (n_fft - length) // 2
    window = np.zeros(n_fft)
    window[left : left + length] = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / length)
    padded = np.pad(sound, n_fft // 2)
    starts = range(0, len(padded) - n_fft + 1, hop)
    return np.array([np.abs(np.fft.rfft(window * padded[at : at + n_fft])) for at in starts]).T


def test_a_spectrum_is_numpy_s():
    sound = noise(3000).double()
    found = losses.magnitude(
        sound, torch.hann_window(600, dtype=torch.float64), n_fft=1024, hop=120
    )
    np.testing.assert_allclose(
        found.numpy() ** 2, spectrum(sound.numpy(), 1024, 120, 600) ** 2 + 1e-7
    )


@pytest.mark.parametrize("form", ["log", "linear"])
def test_the_spectral_losses_are_the_mean_over_resolutions(form):
    estimate, target = noise(3000).double(), noise(3000, seed=1).double()
    expected = []
    for resolution in losses.RESOLUTIONS:
        e, t = (spectrum(each.numpy(), *resolution) for each in (estimate, target))
        convergence = np.sqrt(((t - e) ** 2).sum()) / np.sqrt((t**2).sum())
        logarithms = np.abs(np.log(t) - np.log(e)).mean()
        expected.append(convergence + logarithms if form == "log" else np.abs(t - e).mean())
    found = losses.MultiResolutionSTFT(form=form).double()(estimate, target)
    assert found.item() == pytest.approx(np.mean(expected), rel=1e-3)


def test_a_mel_spectrum_is_torchaudio_s():
    sound = noise(2, RATE)
    reference = torchaudio.transforms.MelSpectrogram(
        RATE,
        n_fft=1024,
        hop_length=256,
        n_mels=80,
        power=1.0,
        norm="slaney",
        mel_scale="slaney",
        pad_mode="constant",
    )
    found = losses.LogMel(RATE)(sound)
    torch.testing.assert_close(found, torch.log(reference(sound) + 1e-5), rtol=1e-3, atol=1e-4)


def test_what_a_loss_keeps_moves_with_it_and_is_not_saved():
    loss = losses.MelL1(losses.LogMel(RATE)).to(torch.float64)
    assert {each.dtype for each in loss.buffers()} == {torch.float64}
    assert not loss.state_dict()
    assert not losses.MultiResolutionSTFT().state_dict()


def test_the_rms_of_a_sine_is_its_amplitude_over_root_two():
    tone = 0.5 * torch.sin(2 * math.pi * 100 * torch.arange(RATE, dtype=torch.float64) / RATE)
    found = losses.rms(torch.stack([tone, 0 * tone]))
    assert found.tolist() == pytest.approx([0.5 / math.sqrt(2), 1e-4], rel=1e-6)


def test_an_envelope_is_the_mean_of_the_absolute_values_of_each_window():
    sound = torch.tensor([1.0, -1.0, 2.0, -4.0, 0.0, 6.0])
    assert losses.envelope(sound, window=2, hop=2).tolist() == [1.0, 3.0, 3.0]
    assert losses.envelope(sound, window=4, hop=1).tolist() == [2.0, 1.75, 3.0]
    assert losses.envelope(sound, window=100).tolist() == [pytest.approx(14 / 6)]


def test_correlation_is_numpy_s():
    first, second = noise(4, 5000).double(), noise(4, 5000, seed=1).double() + noise(4, 5000)
    expected = [np.corrcoef(a, b)[0, 1] for a, b in zip(first.numpy(), second.numpy(), strict=True)]
    found = losses.correlation(first, second, floor=1e-9)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9)
    # A floor far below the sounds' own spread changes next to nothing.
    np.testing.assert_allclose(losses.correlation(first, second).numpy(), expected, rtol=1e-3)


def test_the_floor_is_what_holds_the_gradient_of_correlation():
    target = noise(1, 2000)
    faint = noise(1, 2000, seed=1, amplitude=1e-7)

    def steepness(floor):
        correlate = lambda e, t: losses.correlation(e, t, floor=floor).sum()  # noqa: E731
        return gradient(correlate, faint, target)[1].norm()

    assert steepness(1e-3) < 30
    assert steepness(1e-12) > 1e5


def slope_at(r, **form):
    r = torch.tensor(float(r), dtype=torch.float64, requires_grad=True)
    price = losses.correlation_penalty(r, **form)
    price.backward()
    return price.item(), r.grad.item()


@pytest.mark.parametrize("r", [0.0, 0.3, -0.3, 0.5, -0.899])
@pytest.mark.parametrize("form", ["tangent", "log"])
def test_up_to_its_limit_the_penalty_is_the_logarithm(form, r):
    price, slope = slope_at(r, form=form)
    assert price == pytest.approx(-math.log(1 - abs(r)))
    assert slope == pytest.approx(math.copysign(1 / (1 - abs(r)), r) if r else 0)


@pytest.mark.parametrize("r", [0.9, 0.95, 0.999, 1.0, -1.0])
def test_beyond_its_limit_the_penalty_goes_on_as_its_tangent(r):
    price, slope = slope_at(r)
    assert price == pytest.approx(-math.log(0.1) + (abs(r) - 0.9) * 10)
    assert slope == pytest.approx(math.copysign(10, r))


@pytest.mark.parametrize("limit", [0.999, 0.95])
def test_the_penalty_as_it_was_used_has_no_gradient_above_its_clamp(limit):
    price, slope = slope_at(1.0, form="log", limit=limit)
    assert (price, slope) == (pytest.approx(-math.log(1 - limit)), 0)
    below = slope_at(limit - 1e-9, form="log", limit=limit)
    assert below == pytest.approx((-math.log(1 - limit), 1 / (1 - limit)), rel=1e-5)


def test_si_sdr_is_the_ratio_of_what_was_put_together():
    """A target plus what is orthogonal to it, at a hundredth of its power: 20 dB."""
    target = noise(8000).double()
    target -= target.mean()
    other = noise(8000, seed=1).double()
    other -= other.mean()
    other -= (other @ target) / (target @ target) * target
    other *= 0.1 * target.norm() / other.norm()
    for scale in (1.0, 0.2, -3.0):
        found = losses.si_sdr(scale * (target + other) + 0.7, target, floor=1e-9)
        assert found.item() == pytest.approx(20, abs=1e-6)


def test_balance_is_0_for_equal_amounts_and_near_1_for_one_alone():
    found = losses.balance(torch.tensor([2.0, 3.0, 0.0, 0.0]), torch.tensor([2.0, 1.0, 1.0, 0.0]))
    assert found.tolist() == pytest.approx([0, 0.5, 1, 0], abs=1e-3)
