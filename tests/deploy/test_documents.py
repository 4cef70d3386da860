"""Documents for people: what they tell to type exists, what they name exists, and what they point to is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from models.audit.settings import AuditSettings
from models.errors import Reason
from models.settings import Settings
from scp.settings import ScpSettings
from tests.deploy.told_commands import accept
from training.landmark_settings import LandmarkTrainSettings
from training.settings import TrainSettings
from training.zone_settings import ZoneTrainSettings
from worker.settings import WorkerSettings

ROOT = Path(__file__).parents[2]
RUNBOOK = ROOT / "deploy" / "runbook.md"
GENERATED = {"conformance.md", "data_dictionary.md"}
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "training" / "README.md",
    *sorted(path for path in (ROOT / "deploy").rglob("*.md") if path.name not in GENERATED),
]
OF_THE_FILE = {"RADSTREAM_CONFIG", "RADSTREAM_SECRETS_DIR"}


def known_settings() -> set[str]:
    classes = (
        Settings,
        AuditSettings,
        ScpSettings,
        WorkerSettings,
        TrainSettings,
        ZoneTrainSettings,
        LandmarkTrainSettings,
    )
    return OF_THE_FILE | {
        f"{kind.model_config['env_prefix']}{name.upper()}" for kind in classes for name in kind.model_fields
    }


def commands_of(text: str) -> list[str]:
    """Commands of radstream that stand on a line of code; those with shell variables are sketches."""
    code = re.findall(r"^ *```(?:sh|bash|console)\n(.*?)^ *```|((?:^    .*\n)+)", text, re.DOTALL | re.MULTILINE)
    lines = [line.strip() for part in code for line in "".join(part).replace("\\\n", " ").splitlines()]
    found = [re.search(r"(?:^|\s|\()(python -m (?:scp|worker|training)\b.*)", line) for line in lines]
    return [hit[1] for hit in found if hit and "$" not in hit[1] and "..." not in hit[1]]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_a_document_tells_to_type_is_a_command(document: Path) -> None:
    for command in commands_of(document.read_text()):
        accept(command)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_settings_that_a_document_names_exist(document: Path) -> None:
    named = set(re.findall(r"\bRADSTREAM_[A-Z0-9_]+\b", document.read_text()))
    beginnings = {name for name in named if name.endswith("_")}
    assert named - beginnings - known_settings() == set()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_parts_that_a_document_points_to_are_there(document: Path) -> None:
    text = document.read_text()
    for target in re.findall(r"\]\(([^)\s]+)\)|<img[^>]* src=\"([^\"]+)\"", text):
        path, _, part = (target[0] or target[1]).partition("#")
        if path.startswith("http"):
            continue
        place = document.parent / path if path else document
        assert place.exists(), f"{document.name} points to {path}"
        if part:
            assert part in anchors_of(place.read_text()), f"{document.name} points to #{part}"
    for path in re.findall(r"`((?:deploy|training|worker|tests|models|migrations|scp)/[\w./-]+)`", text):
        assert (ROOT / path).exists(), f"{document.name} names {path}"


def anchors_of(text: str) -> set[str]:
    """Anchors of headings as repository browsers make them."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_runbook_has_ten_parts_and_names_every_alert() -> None:
    text = RUNBOOK.read_text()
    assert len(re.findall(r"^## \d+\. ", text, re.MULTILINE)) == 10
    groups = yaml.safe_load((ROOT / "deploy" / "prometheus" / "radstream.rules.yml").read_text())["groups"]
    alerts = {rule["alert"] for group in groups for rule in group["rules"] if "alert" in rule}
    assert set(re.findall(r"`(Radstream\w+)`", text)) == alerts


def test_every_part_of_the_runbook_tells_how_it_shows_what_to_type_and_when_it_is_over() -> None:
    for part in re.split(r"^## (?=\d)", RUNBOOK.read_text(), flags=re.MULTILINE)[1:]:
        assert "**Over when**" in part, part[:40]
        assert "```sh" in part, part[:40]


def test_reasons_that_the_runbook_names_are_reasons_of_the_code() -> None:
    rows = re.findall(r"^\| ((?:`[a-z_]+`(?:, )?)+) \|", RUNBOOK.read_text(), re.MULTILINE)
    named = {reason for row in rows for reason in re.findall(r"`([a-z_]+)`", row)}
    assert len(named) > 8
    assert named <= {reason.value for reason in Reason}
