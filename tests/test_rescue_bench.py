"""The closed-loop benchmark: its rivals are as published, and one rescue from end to end."""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))


from benchmarks.rescue import judge, rivals
from benchmarks.rescue.inside import bare_run
from benchmarks.rescue.kinds import KINDS
from benchmarks.rescue.loop import Outcome

NORMS = [1.0, 3.0, 2.0, 2.5, 1.5, 40.0, 2.0, 1.8, 2.2, 0.7]


pytestmark = pytest.mark.usefixtures("one_thread")


def test_clipping_is_that_of_pytorch():
    for norm in NORMS:
        weight = torch.nn.Parameter(torch.zeros(1))
        weight.grad = torch.tensor([norm])
        torch.nn.utils.clip_grad_norm_([weight], 2.0)
        assert float(weight.grad) == pytest.approx(norm * rivals.Constant(2.0).factor(0.0, norm))


def test_autoclip_clips_to_numpys_percentile_of_all_norms_so_far():
    guard = rivals.AutoClip()
    for count, norm in enumerate(NORMS, start=1):
        limit = np.percentile(NORMS[:count], 10)
        assert guard.factor(0.0, norm) == pytest.approx(min(1.0, limit / (norm + 1e-6)))


def test_autoclip_is_poisoned_by_one_nan():
    guard = rivals.AutoClip()
    assert math.isnan(guard.factor(0.0, math.nan))
    assert math.isnan(guard.factor(0.0, 1.0))


def test_zclip_clips_a_spike_the_more_the_further_out_it_is():
    def after(norm: float) -> float:
        guard = rivals.ZClip(at_most=math.inf)
        for number in range(25):
            guard.factor(0.0, 1.0 + 0.1 * (-1) ** number)
        return norm * guard.factor(0.0, norm)

    assert after(1.2) == 1.2
    mean, scatter = 1.004, math.sqrt(0.25 - 0.240016)
    z = (2.0 - mean) / scatter
    assert after(2.0) == pytest.approx(mean + 2.5 * scatter * 2.5 / z, rel=1e-3)
    assert after(100.0) < after(2.0)


def test_skip_step_leaves_out_what_is_beyond_six_sigma_and_clips_the_rest():
    guard = rivals.SkipStep(1.0)
    for number in range(100):
        assert guard.factor(2.0, 2.0 + 0.1 * (-1) ** number) == pytest.approx(0.5, rel=0.06)
    assert guard.factor(2.0, 9.0) is None


def test_a_run_that_ended_with_nan_is_not_rescued_and_the_table_bears_it():
    found = {
        judge.ORACLE: [Outcome(final=1.0), Outcome(final=1.0)],
        judge.PLAIN: [Outcome(final=math.nan), Outcome(final=1.09)],
    }
    assert not judge.is_rescued(found[judge.PLAIN][0], found[judge.ORACLE][0])
    assert "1/2" in judge.table("any", found)
    assert "50%" in judge.rescued_in_all({"any": found})


def test_the_same_seed_gives_the_same_training():
    kind = KINDS["conv_net"]
    one, other = (kind.build(3, kind.bad) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one.batches[7], other.batches[7], strict=True))
    assert float(one.evaluate().detach()) == float(other.evaluate().detach())
    assert float(kind.build(4, kind.bad).evaluate().detach()) != float(one.evaluate().detach())


def test_a_bare_run_leaves_the_environment_as_it_was():
    before = dict(os.environ)
    with bare_run({}) as folder:
        assert Path(os.environ["HPCKIT_RUN_DIR"]) == folder
    assert dict(os.environ) == before
    assert not folder.exists()


def test_a_training_that_diverges_is_rescued():
    kind = KINDS["lstm"]
    oracle = judge.run(kind, judge.ORACLE, 0)
    outcome = judge.run(kind, judge.HPCKIT, 0)
    assert judge.is_rescued(outcome, oracle)
    assert outcome.rollbacks >= 1
    assert outcome.steps == kind.bad.steps
    assert not outcome.stopped
