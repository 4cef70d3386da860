"""``python -m training check-data``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Final

from models.tasks import Task
from training.classes import CLASSES, classes_of
from training.commands.command import Command

_EPILOG: Final = """example:
  python -m training check-data --task pneumonia --data-dir chest_xray

Reads every image once. Says how many images and persons of each class there are, which files cannot be read, which
images are there twice, and what beside the disease tells the classes apart. Errors (an empty class, one image with
two labels, an image or a person in two splits) end with status 1.

formats:
  class-folders  DIR/NORMAL/* and DIR/PNEUMONIA/* (DIR/train/NORMAL/* ... where the set is split): PNG, JPEG, DICOM;
                 optionally DIR/persons.csv with the columns file, person
  nih-csv        Data_Entry_2017.csv of NIH ChestX-ray14 with the images anywhere below, and its lists of the splits
  dicom-csv      DICOM files anywhere below, and a CSV file with the columns file or sop_instance_uid, label, and
                 optionally person, split
  brixia         scores.csv with Brixia scores of adults: senior's sum to 1 is negative, from 6 positive"""


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--task",
        choices=[task.value for task in CLASSES],
        default=Task.PNEUMONIA.value,
        help="decides the class names (default pneumonia)",
    )
    parser.add_argument("--data-dir", type=Path, required=True, metavar="DIR", help="directory of the set")
    parser.add_argument("--format", default="auto", help="one of those below (default: find out)")
    parser.add_argument("--labels-csv", type=Path, metavar="FILE", help="table of labels, where it lies elsewhere")
    parser.add_argument("--split", metavar="NAME", help="check this split alone (default: all, and across them)")
    parser.add_argument("--limit", type=int, metavar="N", help="at most N images per class (for trials)")
    parser.add_argument("--json", action="store_true", help="write the whole report, every file named, as JSON")


def _run(arguments: argparse.Namespace) -> None:
    from rich.console import Console

    from training.check_data import DataProblems, check_data, print_report
    from training.progress import track

    report = check_data(
        arguments.data_dir,
        classes_of(Task(arguments.task)),
        format=arguments.format,
        labels_csv=arguments.labels_csv,
        split=arguments.split,
        limit=arguments.limit,
        progress=lambda files: track(files, len(files), "reading images"),
    )
    if arguments.json:
        print(json.dumps(report.to_json(), indent=1))
    else:
        print_report(report, Console())
    if report.errors:
        noun = "error" if report.errors == 1 else "errors"
        raise DataProblems(f"{arguments.data_dir}: {report.errors} {noun} in the data; see the report")


CHECK_DATA: Final = Command(
    "check-data", "say what a set of images holds and what is wrong with it", _EPILOG, _add_options, _run
)
