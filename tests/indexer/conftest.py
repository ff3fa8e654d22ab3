"""What tests of the indexer share."""

import pytest

from indexer import device, work


@pytest.fixture(autouse=True)
def _steady_choices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which products are faster is measured, and may come out otherwise the next time: two builds would then differ in
    last digits. Tests of the other ways ask for them.
    """
    monkeypatch.setattr(work, "bf16_is_faster", lambda _width: False)
    monkeypatch.setattr(device, "onednn_is_faster", lambda: False)
