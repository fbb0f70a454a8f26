"""Weights as .safetensors: what other programs read is what was saved."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from hpckit.checkpoint import safetensors
from hpckit.checkpoint.export import export
from hpckit.checkpoint.manifest import Checkpoint
from hpckit.errors import CannotWrite, HpckitError, NotFound, UsageError
from tests.checkpoint.made import make

KINDS = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "C64": torch.complex64,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


def read(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The format as its description has it; every byte belongs to exactly one tensor."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    assert length % 8 == 0
    header = json.loads(data[8 : 8 + length])
    about = header.pop("__metadata__")
    body = data[8 + length :]
    tensors, end = {}, 0
    for name, entry in sorted(header.items(), key=lambda each: each[1]["data_offsets"]):
        first, last = entry["data_offsets"]
        assert first == end
        end = last
        kind = KINDS[entry["dtype"]]
        assert first % torch.empty(0, dtype=kind).element_size() == 0
        flat = torch.frombuffer(bytearray(body[first:last]), dtype=kind) if last > first else None
        flat = torch.empty(0, dtype=kind) if flat is None else flat
        tensors[name] = flat.reshape(entry["shape"])
    assert end == len(body)
    return tensors, about


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert sorted(found) == sorted(expected)
    for name, tensor in expected.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape), name
        assert raw(found[name]) == raw(tensor), name


def raw(tensor: torch.Tensor) -> list[int]:
    flat = tensor.resolve_conj().contiguous().reshape(-1)
    return flat.view(torch.uint8).tolist() if flat.numel() else []


def module(model: nn.Module) -> dict[str, Any]:
    return {"kind": "module", "state": model.state_dict()}


def saved(run: Path, items: dict[str, Any], step: int = 12) -> Checkpoint:
    made = make(run, step)
    torch.save({"format": 1, "items": items}, made.path / "state.pt")
    torch.save({"items": {}}, made.path / "rank-0.pt")
    return made


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "weights.safetensors"


def everything() -> dict[str, torch.Tensor]:
    """A tensor of each type, and shapes that are easily got wrong."""
    torch.manual_seed(0)
    tensors = {name: torch.randint(0, 2, (3, 5)).to(kind) for name, kind in KINDS.items()}
    weight = torch.randn(4, 6)
    return tensors | {
        "scalar": torch.tensor(1.5),
        "empty": torch.empty(0, 3),
        "odd": torch.tensor([True]),
        "transposed": weight.t(),
        "part of a larger one": weight[1:3, ::2],
        "tied": weight,
        "tied, too": weight,
        "nan": torch.tensor([float("nan"), float("inf")]),
        "naïve “name”": torch.ones(1),
        "conj": torch.tensor([1 + 2j], dtype=torch.complex64).conj(),
    }


def test_every_type_and_shape_is_read_as_it_was(tmp_path: Path, out: Path) -> None:
    items = {"model": {"kind": "module", "state": everything()}}
    names = export(saved(tmp_path, items), out)
    found, about = read(out)
    assert about == {"format": "pt", "step": "12"}
    assert names == sorted(everything())
    assert_same(found, everything())


def test_the_format_s_own_library_reads_it(tmp_path: Path, out: Path) -> None:
    library = pytest.importorskip("safetensors.torch", reason="safetensors is not installed")
    export(saved(tmp_path, {"model": {"kind": "module", "state": everything()}}), out)
    assert_same(library.load_file(out), everything())


def test_a_single_module_s_names_are_plain_and_load_into_it(tmp_path: Path, out: Path) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.randn(5, 3)).sum().backward()
    optimizer.step()
    items = {
        "generator": module(model),
        "optimizer": {"kind": "optimizer", "state": optimizer.state_dict()},
    }
    export(saved(tmp_path, items), out)
    assert_same(read(out)[0], model.state_dict())
    nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).load_state_dict(read(out)[0])


def test_several_modules_go_under_their_names_and_one_can_be_chosen(
    tmp_path: Path, out: Path
) -> None:
    model, ema = nn.Linear(2, 2), nn.Linear(2, 2)
    made = saved(tmp_path, {"model": module(model), "ema": module(ema)})
    assert export(made, out) == ["ema.bias", "ema.weight", "model.bias", "model.weight"]
    assert export(made, out, "ema") == ["bias", "weight"]
    assert_same(read(out)[0], ema.state_dict())


def test_a_part_that_is_no_module_is_written_by_its_paths(tmp_path: Path, out: Path) -> None:
    shadow = {"decay": 0.9, "shadow": [torch.ones(2), torch.zeros(1)], "by": {"a": torch.ones(1)}}
    made = saved(
        tmp_path, {"model": module(nn.Linear(1, 1)), "ema": {"kind": "x", "state": shadow}}
    )
    assert export(made, out, "ema") == ["by.a", "shadow.0", "shadow.1"]


def test_a_part_that_there_is_not_is_refused_with_those_there_are(
    tmp_path: Path, out: Path
) -> None:
    made = saved(tmp_path, {"model": module(nn.Linear(1, 1)), "values": {"kind": "x", "state": {}}})
    with pytest.raises(UsageError, match=r"no part 'emma'\n  it has: model, values"):
        export(made, out, "emma")
    with pytest.raises(UsageError, match=r"part 'values' of .* holds no tensors"):
        export(made, out, "values")
    assert not out.exists()


def test_a_state_that_cannot_be_read_is_a_sentence(tmp_path: Path, out: Path) -> None:
    made = make(tmp_path, 1)
    with pytest.raises(HpckitError, match=r"state\.pt cannot be read"):
        export(made, out)
    torch.save([1], made.path / "state.pt")
    with pytest.raises(HpckitError, match="holds no items"):
        export(made, out)
    (made.path / "state.pt").unlink()
    with pytest.raises(NotFound, match=r"state\.pt is missing"):
        export(made, out)


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
def test_what_the_format_cannot_hold_is_named(tmp_path: Path, out: Path) -> None:
    state = {"weight": torch.eye(3).to_sparse()}
    with pytest.raises(HpckitError, match=r"weight is a tensor of float32, torch\.sparse_coo"):
        export(saved(tmp_path, {"model": {"kind": "module", "state": state}}), out)


def test_a_write_that_fails_leaves_what_was_there(
    tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = saved(tmp_path, {"model": module(nn.Linear(1, 1))})
    export(made, out)
    before = out.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(safetensors, "_write", full)
    with pytest.raises(CannotWrite, match="No space left"):
        export(made, out)
    assert out.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoints", out.name]


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    made = saved(tmp_path, {"model": module(nn.Linear(1, 1))})
    with pytest.raises(CannotWrite, match=r"No such file or directory\n  choose another place"):
        export(made, tmp_path / "nowhere" / "weights.safetensors")


def test_what_each_rank_keeps_for_itself_is_a_part_too(tmp_path: Path, out: Path) -> None:
    made = saved(tmp_path, {"model": module(nn.Linear(1, 1))})
    average = {"kind": "other", "state": {"decay": 0.9, "weight": torch.ones(2)}}
    torch.save({"items": {"ema": average}}, made.path / "rank-0.pt")
    assert export(made, out, "ema") == ["weight"]
    assert export(made, out) == ["bias", "weight"]


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_what_all_ranks_wrote_together_is_put_together(tmp_path: Path, out: Path) -> None:
    from torch.distributed.checkpoint import save
    from torch.distributed.checkpoint.state_dict import (
        get_model_state_dict,
        get_optimizer_state_dict,
    )

    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.randn(5, 3)).sum().backward()
    optimizer.step()
    made = saved(tmp_path, {"schedule": {"kind": "schedule", "state": {"last_epoch": 3}}})
    state = {
        "optimizer": get_optimizer_state_dict(model, optimizer),
        "model": get_model_state_dict(model),
    }
    save(state, checkpoint_id=made.path / "sharded", no_dist=True)
    export(made, out)
    assert_same(read(out)[0], model.state_dict())
    export(made, out, "optimizer")
    moments = read(out)[0]
    assert "state.0.weight.exp_avg" in moments
    assert_same(
        {"exp_avg": moments["state.0.weight.exp_avg"]},
        {"exp_avg": optimizer.state[model[0].weight]["exp_avg"]},
    )
