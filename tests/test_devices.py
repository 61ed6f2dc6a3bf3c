"""The tests' own tensors are made on DGPO_TEST_DEVICE, and nobody else's."""

from __future__ import annotations

import torch

from dgpo_cli.policy.batching import pad_rows
from tests.devices import OnDevice


def test_tensors_of_a_test_are_on_the_device_and_those_of_the_package_are_not() -> None:
    generator = torch.Generator().manual_seed(1)
    with OnDevice("meta"):
        made = [torch.zeros(2), torch.tensor([1.0]), torch.randn(3, generator=generator)]
        rows = pad_rows([([1], [2, 3])], pad_id=0)
        asked = torch.ones(2, device="cpu")
    assert [each.device.type for each in made] == ["meta"] * 3
    assert rows.mask.device.type == "cpu"
    assert asked.device.type == "cpu"


def test_random_numbers_are_those_of_a_cpu() -> None:
    plain = torch.rand(4, generator=torch.Generator().manual_seed(1))
    with OnDevice("cpu"):
        assert torch.equal(plain, torch.rand(4, generator=torch.Generator().manual_seed(1)))
