"""``python -m training export``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

from models.settings import Settings, load
from training.commands.command import Command

_EPILOG: Final = """example:
  python -m training export --run runs/pneumonia-1 --version 1.1.0 --store models-store --activate \\
      --data-note "paediatric chest radiographs of hospital X" --licence "CC BY 4.0; research use"

Writes <store>/<task>/<version>/ with network.onnx, manifest.json and report/. A version is never replaced.

A network of csi or landmarks that was fitted to everyone (--val-fraction 0) is measured by a cross-validation with
the same settings:

  python -m training export --run runs/csi --measured-by runs/csi-folds --version 1.0.0 --store models-store

With --report-only nothing is made to serve: settings, epochs and measures of the run are kept without its weights in
<store>/<task>/reports/<version>/, where `compare --store` finds them."""


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--run", type=Path, required=True, metavar="DIR", help="run directory of `train`")
    parser.add_argument("--version", required=True, help="name of the version to make, e.g. 1.1.0")
    parser.add_argument("--store", type=Path, metavar="DIR", help="model store; default RADSTREAM_MODEL_STORE")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--activate", action="store_true", help="let the new version serve")
    what.add_argument("--report-only", action="store_true", help="keep the run's report alone, under this name")
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help="where the training images lie now, if moved")
    parser.add_argument("--data-note", default="Not described.", metavar="TEXT", help="what the training images are")
    parser.add_argument("--measured-by", type=Path, metavar="DIR", help="cross-validation of networks fitted likewise")
    parser.add_argument("--licence", default="Not stated.", metavar="TEXT", help="terms of images and weights")


def _run(arguments: argparse.Namespace) -> None:
    store_path = arguments.store or load(Settings).model_store
    from models.store.store import ModelStore
    from training.export import ExportRequest, export
    from training.report import keep_report
    from training.run import RunDirectory

    run, store = RunDirectory(arguments.run), ModelStore(store_path)
    if arguments.report_only:
        print(keep_report(run, arguments.version, store))
        return
    request = ExportRequest(
        arguments.version, arguments.data_dir, arguments.data_note, arguments.licence, arguments.measured_by
    )
    version = export(run, request, store)
    if arguments.activate:
        store.activate(version.manifest.task, version.manifest.version)
    print(version.directory)


EXPORT: Final = Command("export", "make a model version of a run directory", _EPILOG, _add_options, _run)
