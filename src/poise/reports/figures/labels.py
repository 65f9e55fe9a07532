"""Where the names of points stand, so that none covers a point or another name."""

from __future__ import annotations

from collections.abc import Sequence

Box = tuple[float, float, float, float]
SIDES = (
    (10, -6, "start"),
    (-10, -6, "end"),
    (10, 16, "start"),
    (-10, 16, "end"),
    (0, -14, "middle"),
    (0, 24, "middle"),
    (0, -28, "middle"),
    (0, 38, "middle"),
)


def place_labels(
    points: Sequence[tuple[float, float, str]], right: float, bottom: float
) -> list[tuple[float, float, str]]:
    """For each point (x, y and name, in pixels) how far its name is from it across and down, and the name's anchor.

    right, bottom: the ends of the room.
    """
    boxes_taken: list[Box] = [(x - 8, y - 8, x + 8, y + 8) for x, y, _ in points]
    boxes = []
    for x, y, name in points:
        sides = [(_box(x, y, name, side), side) for side in SIDES]
        free = [
            (box, side)
            for box, side in sides
            if box[0] >= 0
            and box[2] <= right
            and box[1] >= 0
            and box[3] <= bottom
            and not any(_overlap(box, box_other) for box_other in boxes_taken)
        ]
        box, side = (free or sides)[0]
        boxes_taken.append(box)
        boxes.append(side)
    return boxes


def _box(x: float, y: float, name: str, side: tuple[float, float, str]) -> Box:
    dx, dy, anchor = side
    wide = 7.5 * len(name)
    left_edge = x + dx - {"start": 0.0, "end": wide, "middle": wide / 2}[anchor]
    return left_edge, y + dy - 11, left_edge + wide, y + dy + 3


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
