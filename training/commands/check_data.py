"""``python -m training check-data``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Final

from models.errors import ConfigurationError
from models.tasks import Task
from training.classes import CLASSES, classes_of
from training.commands.command import Command

if TYPE_CHECKING:
    from training.check_data import DataReport
    from training.check_landmarks import LandmarkDataReport
    from training.check_zones import ZoneDataReport

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
  brixia         scores.csv with Brixia scores of adults: senior's sum to 1 is negative, from 6 positive

Task csi looks at scores of six lung zones: how often each grade was given to each zone, how well two readers agree,
which grades are rare, and on which films no lungs were found:

  python -m training check-data --task csi --data-dir brixia_cohen

formats of task csi:
  csi            a CSV file with the separator ; and the columns FileID, right_sup, left_sup, right_mid, left_mid,
                 right_inf, left_inf, and optionally patient; an empty zone is ungradable; <FileID>.png, .jpg, .jpeg,
                 .dcm or .dicom anywhere below
  brixia         scores.csv with Brixia scores, zone by zone, of one or two readers

Task landmarks looks at corners of vertebrae: rows whose vertebrae are out of order or drawn twice, angles that are not
those of the landmarks, images and persons in two splits, how many spines are curved and how much:

  python -m training check-data --task landmarks --data-dir aasce

formats of task landmarks:
  aasce          frontal whole spines: <split>/ with the images, <split>_filenames.csv, <split>_landmarks.csv (68 x then
                 68 y, in widths and heights of the image), optionally <split>_angles.csv
  buu-ap, buu-la frontal or lateral lumbar spines: beside each image a CSV file of endplates x1,y1,x2,y2,label in pixels
  generic40      lateral spines: for each image a JSON file with boxes and keypoints [x, y, v], four to a vertebra"""


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--task",
        choices=[*(task.value for task in CLASSES), Task.CSI.value, Task.LANDMARKS.value],
        default=Task.PNEUMONIA.value,
        help="decides what is looked for (default pneumonia)",
    )
    parser.add_argument("--data-dir", type=Path, required=True, metavar="DIR", help="directory of the set")
    parser.add_argument("--format", default="auto", help="one of those below (default: find out)")
    parser.add_argument("--labels-csv", type=Path, metavar="FILE", help="table of labels, where it lies elsewhere")
    parser.add_argument("--split", metavar="NAME", help="check this split alone (default: all, and across them)")
    parser.add_argument(
        "--limit", type=int, metavar="N", help="at most N images per class (for trials); of csi and landmarks in all"
    )
    parser.add_argument(
        "--exclude",
        action="append",
        default=[],
        metavar="FILE_OR_ID",
        help="of csi, landmarks: leave out this FileID or file, or those that a .txt file lists; may be repeated",
    )
    parser.add_argument("--json", action="store_true", help="write the whole report, every file named, as JSON")


def _run(arguments: argparse.Namespace) -> None:
    from training.check_data import DataProblems

    report: DataReport | ZoneDataReport | LandmarkDataReport
    match Task(arguments.task):
        case Task.CSI:
            report = _check_zones(arguments)
        case Task.LANDMARKS:
            report = _check_landmarks(arguments)
        case _:
            report = _check_classes(arguments)
    if report.errors:
        noun = "error" if report.errors == 1 else "errors"
        raise DataProblems(f"{arguments.data_dir}: {report.errors} {noun} in the data; see the report")


def _check_classes(arguments: argparse.Namespace) -> DataReport:
    from rich.console import Console

    from training.check_data import check_data, print_report
    from training.progress import track

    if arguments.exclude:
        raise ConfigurationError("--exclude: of tasks csi and landmarks only")
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
    return report


def _check_zones(arguments: argparse.Namespace) -> ZoneDataReport:
    from rich.console import Console

    from training.check_zones import check_zones, print_report
    from training.datasets.exclusions import read_exclusions
    from training.progress import track

    if arguments.split is not None:
        raise ConfigurationError("--split: not of task csi; a set of zone scores has no splits")
    _check_limit(arguments)
    report = check_zones(
        arguments.data_dir,
        format=arguments.format,
        labels_csv=arguments.labels_csv,
        limit=arguments.limit,
        exclude=read_exclusions(arguments.exclude),
        progress=lambda paths: track(paths, len(paths), "reading images"),
    )
    if arguments.json:
        print(json.dumps(report.to_json(), indent=1))
    else:
        print_report(report, Console())
    return report


def _check_landmarks(arguments: argparse.Namespace) -> LandmarkDataReport:
    from rich.console import Console

    from training.check_landmarks import check_landmarks, print_report
    from training.datasets.exclusions import read_exclusions
    from training.progress import track

    if arguments.labels_csv is not None:
        raise ConfigurationError("--labels-csv: not of task landmarks, whose tables lie beside the images")
    _check_limit(arguments)
    report = check_landmarks(
        arguments.data_dir,
        format=arguments.format,
        split=arguments.split,
        limit=arguments.limit,
        exclude=read_exclusions(arguments.exclude),
        progress=lambda paths: track(paths, len(paths), "reading images"),
    )
    if arguments.json:
        print(json.dumps(report.to_json(), indent=1))
    else:
        print_report(report, Console())
    return report


def _check_limit(arguments: argparse.Namespace) -> None:
    if arguments.limit is not None and arguments.limit < 1:
        raise ConfigurationError(f"limit {arguments.limit}: at least one image is wanted")


CHECK_DATA: Final = Command(
    "check-data", "say what a set of images holds and what is wrong with it", _EPILOG, _add_options, _run
)
