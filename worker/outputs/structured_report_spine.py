"""What the report of a spine says: vertebrae with their outlines, discs, curves and slips.

A corner that the network put beyond the image has no place in a report, whose coordinates are those of the image
(PS3.3 C.18.6.1.1): its vertebra is told by the corners that are left, without an outline, and the reasons for review
say why.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydicom.sr.coding import Code

from models.spine.cobb import CobbAngle
from models.spine.corners import ImageSide
from models.spine.measures import Height, Part
from models.spine.slips import Slip
from worker.outputs import report_codes as codes
from worker.outputs.report_groups import Group, GroupMaker, Number, Site
from worker.spine_finding import LandmarkFinding

_AROUND: Final = [0, 1, 3, 2]
"""Places of the four corners of a vertebra, clockwise as one sees it."""


def groups_of_spine(finding: LandmarkFinding, maker: GroupMaker) -> Sequence[Group]:
    """Give the measurement groups that tell a finding of landmarks."""
    bodies = {each.upper_vertebra: each for each in finding.measures.heights if each.part is Part.BODY}
    discs = [each for each in finding.measures.heights if each.part is Part.DISC]
    return [
        _of_whole(finding, maker),
        *(_of_vertebra(finding, name, bodies, maker) for name in finding.schema.vertebrae),
        *(_of_disc(disc, maker) for disc in discs),
        *(_of_curve(angle, maker) for angle in finding.measures.cobb),
        *(_of_slip(slip, maker) for slip in finding.measures.slips),
    ]


def _of_whole(finding: LandmarkFinding, maker: GroupMaker) -> Group:
    answers = [(codes.REVIEW, _yes_or_no(finding.review))]
    answers += [(codes.REVIEW_REASON, codes.reviewed_for(reason)) for reason in finding.review_reasons]
    if finding.anterior is not None:
        side = codes.IMAGE_LEFT if finding.anterior is ImageSide.LEFT else codes.IMAGE_RIGHT
        answers.append((codes.ANTERIOR_SIDE, side))
    numbers = [Number(codes.MEAN_CONFIDENCE, 100 * float(finding.confidence.mean()), codes.PERCENT)]
    if finding.spacing is not None:
        answers.append((codes.SPACING, codes.spaced_by(finding.spacing.source)))
    return maker.group("spine", codes.SPINE, sites=[Site(codes.SPINE)], numbers=numbers, answers=answers)


def _of_vertebra(finding: LandmarkFinding, name: str, bodies: Mapping[str, Height], maker: GroupMaker) -> Group:
    places = list(finding.schema.landmarks_of(name))
    corners = finding.landmarks[places]
    told = corners[_in_image(corners, finding)]
    numbers = [Number(codes.CONFIDENCE, 100 * finding.vertebra_confidence[name], codes.PERCENT)]
    if name in bodies:
        numbers += _numbers_of(bodies[name])
    return maker.group(
        name,
        codes.VERTEBRA,
        sites=[Site(codes.vertebra(name))],
        numbers=numbers,
        answers=[(codes.REVIEW, _yes_or_no(name in finding.flagged))],
        outline=corners[_AROUND] if len(told) == len(_AROUND) else None,
        points=told if len(told) else None,
    )


def _in_image(corners: NDArray[np.float64], finding: LandmarkFinding) -> NDArray[np.bool_]:
    size = np.array([finding.columns, finding.rows])
    return np.asarray(((corners >= 0) & (corners <= size)).all(axis=1))  # false for NaN


def _of_disc(disc: Height, maker: GroupMaker) -> Group:
    name = f"{disc.upper_vertebra}/{disc.lower_vertebra}"
    site = codes.disc(disc.upper_vertebra, disc.lower_vertebra)
    return maker.group(f"disc {name}", site, sites=[Site(site)], numbers=_numbers_of(disc))


def _numbers_of(height: Height) -> list[Number]:
    """Give the heights of both sides, in mm where the spacing is known."""
    left, right, unit = height.left_mm, height.right_mm, codes.MILLIMETRES
    if left is None or right is None:
        left, right, unit = height.left_px, height.right_px, codes.PIXELS
    return [Number(codes.HEIGHT_LEFT, left, unit), Number(codes.HEIGHT_RIGHT, right, unit)]


def _of_curve(angle: CobbAngle, maker: GroupMaker) -> Group:
    sites = [
        Site(codes.vertebra(angle.upper_vertebra), modifier=codes.UPPER_END),
        Site(codes.vertebra(angle.lower_vertebra), modifier=codes.LOWER_END),
    ]
    return maker.group(
        f"curve {angle.curve.value}",
        codes.CURVES[angle.curve],
        sites=sites,
        numbers=[Number(codes.COBB_ANGLE, angle.degrees, codes.DEGREES)],
    )


def _of_slip(slip: Slip, maker: GroupMaker) -> Group:
    numbers = [Number(codes.SLIP_PERCENT, slip.percent, codes.PERCENT)]
    if slip.offset_mm is not None:
        numbers.append(Number(codes.SLIP_OFFSET, slip.offset_mm, codes.MILLIMETRES))
    else:
        numbers.append(Number(codes.SLIP_OFFSET, slip.offset_px, codes.PIXELS))
    numbers.append(Number(codes.SLIP_ANGLE, slip.angle_degrees, codes.DEGREES))
    if slip.grade is not None:
        numbers.append(Number(codes.MEYERDING, int(slip.grade), codes.NO_UNITS))
    sites = [Site(codes.vertebra(slip.upper_vertebra)), Site(codes.vertebra(slip.lower_vertebra))]
    return maker.group(
        f"slip {slip.upper_vertebra}/{slip.lower_vertebra}",
        codes.SLIP,
        sites=sites,
        numbers=numbers,
        answers=[(codes.SLIP_KIND, codes.SLIP_KINDS[slip.kind])],
    )


def _yes_or_no(answer: bool) -> Code:
    return codes.YES if answer else codes.NO
