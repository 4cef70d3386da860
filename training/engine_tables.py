"""What `python -m training build` prints: the proof of an engine, and its speed beside its rivals."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from models.engines.built import EngineManifest, Proof, best_speed


def proof_table(proof: Proof, title: str) -> Table:
    """Give every figure, the bounded ones first."""
    table = Table("figure", "found", "must be", "", title=f"{title}, {proof.images} images")
    for check in proof.checks:
        table.add_row(
            check.name, f"{check.value:.4g}", f"{check.holds} {check.bound:g}", "" if check.passed else "FAILS"
        )
    for name, value in proof.measured.items():
        table.add_row(name, f"{value:.4g}", "", "")
    return table


def speed_table(engines: Sequence[EngineManifest]) -> Table:
    """Give images per second by precision, batch and threads, and which engine was chosen.

    Several workers on a host share its cores: they do best with the threads at which `per thread` is highest.
    """
    device = ", ".join(sorted({f"{engine.provider} {engine.provider_version}, {engine.device}" for engine in engines}))
    table = Table("precision", "batch", "threads", "images/s", "per thread", "to FP32", "chosen", title=device)
    for engine in engines:
        for row, speed in enumerate(engine.speeds):
            ratio = speed.images_per_s / speed.reference_images_per_s if speed.reference_images_per_s else None
            table.add_row(
                engine.precision if row == 0 else "",
                str(speed.batch),
                "" if speed.threads is None else str(speed.threads),
                f"{speed.images_per_s:.1f}",
                "" if speed.threads is None else f"{speed.images_per_s / speed.threads:.1f}",
                "" if ratio is None else f"{ratio:.2f}",
                f"yes, {best_speed(engine):.2f} in the mean" if engine.chosen and row == 0 else "",
            )
        table.add_section()
    return table
