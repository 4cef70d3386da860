"""The published data dictionary is the one that the code says."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy import data_dictionary
from models.records.dictionary import DICTIONARY
from models.records.patient_identity import ATTRIBUTES


def test_the_published_dictionary_is_what_the_command_writes(capsys: pytest.CaptureFixture[str]) -> None:
    assert data_dictionary.main(["--check"]) == 0, "run `python -m deploy.data_dictionary`"
    assert capsys.readouterr().out == "data_dictionary.md is up to date\n"


def test_an_older_file_is_found_and_written_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_dictionary, "TARGET", tmp_path / "data_dictionary.md")
    assert data_dictionary.main(["--check"]) == 1
    assert data_dictionary.main([]) == 0
    assert data_dictionary.main(["--check"]) == 0
    (tmp_path / "data_dictionary.md").write_text("older")
    assert data_dictionary.main(["--check"]) == 1


def test_a_column_has_its_row_and_a_mode_its_column() -> None:
    lines = data_dictionary.render().splitlines()
    assert (
        "| `cobb_main` | number | degrees | Main Cobb angle. |"
        " a vertebra is missing, or not analysed; `state` and `reason` say why |" in lines
    )
    assert "| `study.accession_number` | AccessionNumber | as sent | keyed hash | not stored |" in lines
    assert any(line.startswith("| `patient_id` * | text |") for line in lines)
    rows = [line for line in lines if line.startswith("| `") and line.count(" | ") == 4]
    columns = sum(len(view.columns) for view in DICTIONARY.values())
    assert len(rows) == columns + len(ATTRIBUTES)
