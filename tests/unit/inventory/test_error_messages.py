"""Every way to get an inventory wrong has its words, kept as text: tests/golden/inventory/NAME.yaml answers NAME.txt.

UPDATE_GOLDEN=1 rewrites the answers; read the difference before committing it.
"""

import os
from pathlib import Path

import pytest

from nixkube_deploy.inventory.error import InventoryError
from nixkube_deploy.inventory.load import load_fleet

GOLDEN = Path(__file__).parents[2] / "golden" / "inventory"
CASES = sorted(path.stem for path in GOLDEN.glob("*.yaml"))


def answer(error: InventoryError) -> str:
    return f"{error.message}\n" + (f"hint: {error.hint}\n" if error.hint else "")


@pytest.mark.parametrize("case", CASES)
def test_a_wrong_inventory_is_answered_with_these_words(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(GOLDEN)

    with pytest.raises(InventoryError) as caught:
        load_fleet(Path(f"{case}.yaml"))

    expected = Path(f"{case}.txt")
    if os.environ.get("UPDATE_GOLDEN"):
        expected.write_text(answer(caught.value))
    assert answer(caught.value) == expected.read_text()
    assert caught.value.exit_code == 2


def test_there_is_an_answer_for_every_case_and_no_other() -> None:
    assert sorted(path.stem for path in GOLDEN.glob("*.txt")) == CASES


def test_no_secret_is_echoed() -> None:
    assert not [path.name for path in GOLDEN.glob("*.txt") if "hunter2" in path.read_text()]
