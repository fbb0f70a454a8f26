"""What is Lightning's own."""

from __future__ import annotations

from typing import Any

import pytest
import torch

pytest.importorskip("pytorch_lightning")

from pytorch_lightning.callbacks import EarlyStopping
from pytorch_lightning.plugins.precision import MixedPrecision

from hpckit.errors import UsageError
from hpckit.integrations.lightning import HpckitCallback
from tests.integrations import lit
from tests.integrations.conftest import Life


def train(life: Life, attempt: int | None, *, names: tuple[str, ...] = (), **settings: Any) -> Any:
    life.start(attempt)
    callback = HpckitCallback(optimizers=names)
    if "module" in settings:
        torch.manual_seed(3)
        settings["module"] = settings["module"]()
    if settings.pop("float16", False):
        # By its name Lightning refuses it on a CPU.
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**24, growth_interval=5)
        settings["plugins"] = [MixedPrecision("16-mixed", "cpu", scaler)]
    trainer, module = lit.train(life.folder, callback=callback, **settings)
    return trainer, module, callback.run


def same(one: Any, other: Any) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return all(torch.equal(a[name], b[name]) for name in a)


CASES = {
    "validation": {"validate": True},
    "validation within the epoch": {"validate": True, "val_check_interval": 3},
    "steps instead of epochs": {"max_steps": 35, "max_epochs": -1},
    "accumulation": {"accumulate_grad_batches": 3},
    "two optimizers": {"module": lit.Gan},
    "bfloat16": {"precision": "bf16-mixed"},
    "workers": {"workers": 2},
    "clipping": {"gradient_clip_val": 0.5},
}


def test_callbacks_that_begin_with_an_infinite_best_make_no_state_bad(life: Life) -> None:
    """ModelCheckpoint, which is there by default, and EarlyStopping do."""
    life.submit(checkpoint={"every": "50 steps"})
    stopping = EarlyStopping("val_loss", patience=99)
    train(
        life,
        1,
        disturb={"explosion": 301, "length": 4},
        size=800,
        enable_checkpointing=True,
        module=lit.Net,
        validate=True,
        beside=[stopping],
    )
    assert [each.data["step"] for each in life.events("rollback")] == [200]


@pytest.mark.parametrize("name", CASES)
def test_however_it_is_trained_the_weights_are_the_same(life: Life, name: str) -> None:
    alone = train(life, None, **CASES[name])
    life.submit(checkpoint={"every": "2 steps"})
    with pytest.raises(lit.Crash):
        train(life, 1, disturb={"crash": 20}, **CASES[name])
    trainer, module, _ = train(life, 2, **CASES[name])
    assert life.events("resumed")[-1].data["step"] >= 4
    assert same(module, alone[1])
    assert trainer.global_step == alone[0].global_step


def test_float16_goes_on_with_its_scale_also_after_overflows(life: Life) -> None:
    # Not as without the callback: what a held back step did to batch norm is undone.
    life.submit()
    whole = train(life, 1, float16=True)
    assert any(each.values["grad/gated/main"] for each in life.readings())
    other = Life(life.folder / "other", life.patch)
    other.submit(checkpoint={"every": "2 steps"})
    with pytest.raises(lit.Crash):
        train(other, 1, disturb={"crash": 20}, float16=True)
    assert same(train(other, 2, float16=True)[1], whole[1])


def test_optimizers_have_names_and_each_its_own_readings(life: Life) -> None:
    life.submit()
    train(life, 1, module=lit.Gan, names=("generator", "discriminator"))
    values = life.readings()[10].values
    assert {"grad/norm/generator", "grad/norm/discriminator"} <= set(values)
    assert {"train/loss/generator", "train/loss/discriminator"} <= set(values)


def test_a_number_of_names_that_does_not_fit_is_told(life: Life) -> None:
    life.submit()
    with pytest.raises(UsageError, match="1 names for 2 optimizers"):
        train(life, 1, module=lit.Gan, names=("generator",))


def test_the_loss_of_an_accumulation_is_the_mean_of_its_parts(life: Life) -> None:
    life.submit()
    _, module, _ = train(life, 1, accumulate_grad_batches=2)
    found = [each.values["train/loss"] for each in life.readings()[:20]]
    pairs = zip(module.losses[::2], module.losses[1::2], strict=True)
    assert found == pytest.approx([(a + b) / 2 for a, b in pairs], rel=1e-4)


def test_the_loss_with_float16_is_told_unscaled(life: Life) -> None:
    life.submit()
    _, module, _ = train(life, 1, float16=True)
    found = [each.values["train/loss"] for each in life.readings()[:40]]
    assert found == pytest.approx(module.losses, rel=1e-2)
    assert "grad/scale/main" in life.readings()[3].values


def test_validation_metrics_are_readings(life: Life) -> None:
    life.submit()
    train(life, 1, validate=True)
    assert any("val/loss" in each.values for each in life.readings())


def test_other_callbacks_and_the_modules_own_go_on_too(life: Life) -> None:
    class Counts(lit.Callback):
        count = 0

        def on_train_batch_end(self, *args: Any) -> None:
            self.count += 1

        def state_dict(self) -> dict[str, Any]:
            return {"count": self.count}

        def load_state_dict(self, state: dict[str, Any]) -> None:
            self.count = state["count"]

    class Own(lit.Net):
        note = 0

        def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
            checkpoint["note"] = len(checkpoint["state_dict"])

        def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
            self.note = checkpoint["note"]

    def once(attempt: int, at: int) -> tuple[Counts, Own]:
        life.start(attempt)
        counts, module = Counts(), Own()
        disturb = lit.Disturb(crash=at)
        trainer = lit.trainer_of(life.folder, counts, HpckitCallback(), disturb)
        loader = lit.DataLoader(lit.dataset(), batch_size=8)
        if at < 40:
            with pytest.raises(lit.Crash):
                trainer.fit(module, loader)
        else:
            trainer.fit(module, loader)
        return counts, module

    life.submit(checkpoint={"every": "3 steps"})
    once(1, 20)
    counts, module = once(2, 99)
    assert counts.count == 40
    assert module.note == len(module.state_dict())


@pytest.mark.parametrize("settings", [{}, {"max_steps": 17, "max_epochs": -1}])
def test_each_reading_says_how_many_steps_there_will_be(
    life: Life, settings: dict[str, Any]
) -> None:
    life.submit()
    trainer, *_ = train(life, 1, **settings)
    steps = trainer.global_step
    found = [
        each.values["progress/total"] for each in life.readings() if "grad/norm/main" in each.values
    ]
    assert found == [float(steps)] * steps
