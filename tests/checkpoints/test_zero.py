"""DeepSpeed's folders, in the layout that its engine writes and `zero_to_fp32.py` reads."""

from __future__ import annotations

from collections import OrderedDict
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch

import porter
from porter.errors import InputError

PARAMETERS = OrderedDict(
    [
        ("a.weight", torch.randn(3, 5)),
        ("a.bias", torch.randn(3)),
        ("one", torch.randn(1)),
        ("empty", torch.randn(0, 4)),
        ("b.weight", torch.randn(2, 3, 1)),
    ]
)
BUFFERS = {"norm.mean": torch.randn(4).bfloat16(), "norm.count": torch.tensor(9)}
FROZEN = {"frozen": torch.randn(7)}


def padded(tensor: torch.Tensor, multiple: int) -> torch.Tensor:
    """Return a flat vector with zeros at its end."""
    flat = tensor.reshape(-1)
    return torch.nn.functional.pad(flat, (0, -flat.numel() % multiple))


def write_model(folder: Path, name: str, stage: int, groups: Any, **more: Any) -> None:
    """Write the file that has the module in the precision of training."""

    def copy(tensor: torch.Tensor) -> torch.Tensor:
        return torch.empty(0, dtype=torch.bfloat16) if stage == 3 else tensor.bfloat16()

    module = {**{n: copy(t) for n, t in {**PARAMETERS, **FROZEN}.items()}, **BUFFERS}
    state = {
        "module": module,
        "buffer_names": list(BUFFERS),
        "param_shapes": [OrderedDict((n, t.shape) for n, t in g.items()) for g in groups],
        "frozen_param_shapes": {n: t.shape for n, t in FROZEN.items()},
        "shared_params": {"again": "a.weight"},
        "ds_config": {"zero_optimization": {"stage": stage}},
        "ds_version": "0.15.1",
        **more,
    }
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(state, folder / name)


def write_masters(folder: Path, rank: int, world: int, stage: int, vectors: Any) -> None:
    """Write the optimizer's file of a rank."""
    key = "fp32_flat_groups" if stage == 3 else "single_partition_of_fp32_groups"
    optimizer = {
        key: vectors,
        "zero_stage": stage,
        "partition_count": world if stage == 3 else [world] * len(vectors),
        "base_optimizer_state": [{"step": torch.tensor(4.0), "exp_avg": torch.ones(3)}],
    }
    torch.save(
        {"optimizer_state_dict": optimizer, "ds_config": {}, "ds_version": "0.15.1"},
        folder / f"bf16_zero_pp_rank_{rank}_mp_rank_00_optim_states.pt",
    )


def zero(folder: Path, stage: int, world: int, latest: bool = True) -> Path:
    """Write a folder of ZeRO 1, 2 or 3 with two groups of parameters; returns it."""
    names = list(PARAMETERS)
    groups = [{n: PARAMETERS[n] for n in names[:2]}, {n: PARAMETERS[n] for n in names[2:]}]
    step = folder / "global_step4"
    if stage == 3:
        for rank in range(world):
            cut = {n: padded(t, world).chunk(world)[rank] for n, t in FROZEN.items()}
            name = f"zero_pp_rank_{rank}_mp_rank_00_model_states.pt"
            write_model(step, name, 3, groups, frozen_param_fragments=cut)
            parts = [[_cut(t, world, rank) for t in g.values()] for g in groups]
            write_masters(step, rank, world, 3, [torch.cat(part) for part in parts])
    else:
        name = "mp_rank_00_model_states.pt"
        write_model(step, name, stage, groups, frozen_param_fragments=FROZEN)
        flat = [padded(torch.cat([t.reshape(-1) for t in g.values()]), 2 * world) for g in groups]
        for rank in range(world):
            vectors = [vector.chunk(world)[rank].clone() for vector in flat]
            write_masters(step, rank, world, stage, vectors)
    if latest:
        (folder / "latest").write_text("global_step4\n")
    return folder


def _cut(tensor: torch.Tensor, world: int, rank: int) -> torch.Tensor:
    size = -(-tensor.numel() // world)
    return padded(tensor, world)[rank * size : (rank + 1) * size] if size else tensor.reshape(-1)


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_masters_are_put_together(stage: int, world: int, tmp_path: Path) -> None:
    """All stages: the float32 masters, frozen parameters, shared ones, and buffers as stored."""
    found = porter.open(zero(tmp_path / "zero", stage, world))
    wanted = {**PARAMETERS, **FROZEN, **BUFFERS, "again": PARAMETERS["a.weight"]}
    assert set(found) == set(wanted)
    for name, tensor in wanted.items():
        assert found[name].dtype.torch == str(tensor.dtype).removeprefix("torch."), name
        data = tensor.reshape(-1).view(torch.uint8).numpy().tobytes()
        assert found[name].shape == tuple(tensor.shape)
        assert found[name].read().tobytes() == data
        assert b"".join(bytes(block) for block in found[name].blocks(8)) == data
    assert found["again"].tie is not None
    assert found["again"].tie == found["a.weight"].tie
    assert found.origin is not None
    assert found.origin.format == "deepspeed"
    note = f"the float32 masters of DeepSpeed ZeRO-{stage} ({world} ranks) are taken"
    assert any(note in line for line in found.origin.notes)


def test_folder_of_the_step_is_read_too(tmp_path: Path) -> None:
    """`latest` is followed, the folder that it names can be given, and one without `latest`."""
    folder = zero(tmp_path / "zero", 2, 2)
    names = set(porter.open(folder))
    assert set(porter.open(folder / "global_step4")) == names
    (folder / "latest").unlink()
    found = porter.open(folder)
    assert set(found) == names
    assert found.origin is not None
    assert "the folder global_step4 is taken" in found.origin.notes


def test_the_model_file_has_the_copy(tmp_path: Path) -> None:
    """`--key module` of the folder names the masters; the file itself is the copy."""
    folder = zero(tmp_path / "zero", 2, 2)
    assert porter.open(folder, key="module")["a.weight"].dtype.name == "float32"
    found = porter.open(folder / "global_step4" / "mp_rank_00_model_states.pt")
    assert found["a.weight"].dtype.name == "bfloat16"


def test_without_masters_the_copy_is_taken_and_said(tmp_path: Path) -> None:
    """ZeRO 1 and 2 have a whole copy; ZeRO-3 has placeholders, which are no weights."""
    for stage in (2, 3):
        folder = zero(tmp_path / str(stage), stage, 2)
        for file in (folder / "global_step4").glob("*_optim_states.pt"):
            file.unlink()
    found = porter.open(tmp_path / "2")
    assert found["a.weight"].dtype.name == "bfloat16"
    assert found.origin is not None
    assert any("no masters" in note for note in found.origin.notes)
    with pytest.raises(InputError, match="placeholders of shape"):
        porter.open(tmp_path / "3")
    with pytest.raises(InputError, match="placeholders of shape"):
        porter.open(tmp_path / "3/global_step4/zero_pp_rank_0_mp_rank_00_model_states.pt")


def _drop_rank(step: Path) -> None:
    (step / "bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt").unlink()


def _drop_models(step: Path) -> None:
    for file in step.glob("*_model_states.pt"):
        file.unlink()


def _parallel(step: Path) -> None:
    torch.save({}, step / "mp_rank_01_model_states.pt")


def _pipeline(step: Path) -> None:
    torch.save({}, step / "layer_00-model_states.pt")


def _shorter(step: Path) -> None:
    write_masters(step, 1, 2, 2, [torch.ones(4), torch.ones(4)])


def _one_group(step: Path) -> None:
    write_masters(step, 1, 2, 2, [torch.ones(4)])


def _no_vectors(step: Path) -> None:
    write_masters(step, 1, 2, 3, [torch.ones(4)])


def _matrix(step: Path) -> None:
    write_masters(step, 1, 2, 2, [torch.ones(2, 2), torch.ones(4)])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_drop_rank, "of rank 1 of 2 are missing"),
        (_drop_models, r"has \*_optim_states.pt and no"),
        (_parallel, "tensor parallelism"),
        (_pipeline, "layers or experts in separate files"),
        (_shorter, "parameters of 18 elements have masters of|too short"),
        (_one_group, "2 groups of parameters have another number of vectors"),
        (_no_vectors, "has no single_partition_of_fp32_groups"),
        (_matrix, "not a flat vector"),
    ],
)
def test_folder_that_does_not_fit_is_refused(change: Any, message: str, tmp_path: Path) -> None:
    """Ranks that are missing, masters of another length, and divisions that porter cannot undo."""
    folder = zero(tmp_path / "zero", 2, 2)
    change(folder / "global_step4")
    with pytest.raises(InputError, match=message):
        porter.open(folder)


def test_repacked_masters(tmp_path: Path) -> None:
    """What is written is what the masters are, read back and recorded."""
    output = tmp_path / "out.pth"
    porter.repack(zero(tmp_path / "zero", 3, 2), output)
    state = torch.load(output)
    assert prod(state["module.a.weight"].shape) == 15
    assert torch.equal(state["module.a.weight"], PARAMETERS["a.weight"])
