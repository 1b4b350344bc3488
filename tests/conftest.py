"""Every test that is not marked slow or gpu belongs to the fast suite."""

import pytest
import torch

torch.set_num_threads(1)  # two test processes on two cores


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if not any(item.get_closest_marker(name) for name in ("slow", "gpu")):
            item.add_marker(pytest.mark.fast)
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="no GPU"))
