"""What is Hugging Face's own."""

from __future__ import annotations

from typing import Any

import pytest
import torch

pytest.importorskip("transformers")

from hpckit.errors import UsageError
from hpckit.integrations.huggingface import HpckitCallback
from tests.integrations import face
from tests.integrations.conftest import Life


def train(life: Life, attempt: int | None, **settings: Any) -> Any:
    life.start(attempt)
    callback = HpckitCallback()
    trainer, module = face.train(life.folder, callback=callback, **settings)
    return trainer, module, callback.run


def same(one: Any, other: Any) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return all(torch.equal(a[name], b[name]) for name in a)


CASES: dict[str, dict[str, Any]] = {
    "evaluation": {"eval_strategy": "epoch"},
    "evaluation within the epoch": {"eval_strategy": "steps", "eval_steps": 3},
    "steps instead of epochs": {"max_steps": 35},
    "accumulation": {"gradient_accumulation_steps": 3},
    "bfloat16": {"bf16": True},
    "workers": {"dataloader_num_workers": 2},
    "no clipping": {"max_grad_norm": 0.0},
    "an order of its own": {"accelerator_config": {"use_seedable_sampler": False}},
    "warmup": {"lr_scheduler_type": "cosine", "warmup_steps": 5},
}


@pytest.mark.parametrize("name", CASES)
def test_however_it_is_trained_the_weights_are_the_same(life: Life, name: str) -> None:
    alone = train(life, None, **CASES[name])
    life.submit(checkpoint={"every": "2 steps"})
    with pytest.raises(face.Crash):
        train(life, 1, disturb={"crash": 20}, **CASES[name])
    trainer, module, _ = train(life, 2, **CASES[name])
    assert life.events("resumed")[-1].data["step"] >= 4
    assert same(module, alone[1])
    assert trainer.state.global_step == alone[0].state.global_step


def test_the_norm_is_that_of_before_the_trainers_clipping(life: Life) -> None:
    life.submit()
    train(life, 1, max_grad_norm=1e-3)
    assert min(each.values["grad/norm/main"] for each in life.readings()[:40]) > 0.01


def test_evaluation_metrics_are_readings(life: Life) -> None:
    life.submit()
    train(life, 1, eval_strategy="epoch")
    assert any("val/loss" in each.values for each in life.readings())


def test_the_log_and_the_counts_of_the_trainer_go_on(life: Life) -> None:
    alone, _, _ = train(life, None)
    life.submit(checkpoint={"every": "7 steps"})
    with pytest.raises(face.Crash):
        train(life, 1, disturb={"crash": 25})
    resumed, _, _ = train(life, 2)
    assert [each["step"] for each in resumed.state.log_history] == [
        each["step"] for each in alone.state.log_history
    ]
    assert resumed.state.epoch == alone.state.epoch


def test_a_callback_that_comes_after_the_trainer_is_told(life: Life) -> None:
    life.submit()
    life.start(1)
    trainer = face.Trainer(
        model=face.Net(),
        args=face.TrainingArguments(str(life.folder), use_cpu=True, report_to=[]),
        train_dataset=face.Points(),
    )
    trainer.add_callback(HpckitCallback())
    with pytest.raises(UsageError, match="came too late"):
        trainer.train()


@pytest.mark.parametrize("settings", [{}, {"max_steps": 17}])
def test_each_reading_says_how_many_steps_there_will_be(
    life: Life, settings: dict[str, Any]
) -> None:
    life.submit()
    trainer, *_ = train(life, 1, **settings)
    steps = trainer.state.global_step
    found = [
        each.values["progress/total"] for each in life.readings() if "grad/norm/main" in each.values
    ]
    assert found == [float(steps)] * steps
