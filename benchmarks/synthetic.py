"""Synthetic faces a second on one core at 256 px, the photo alone and with its JPEG: median of 5 rounds, [min-max].

python benchmarks/synthetic.py
"""

import statistics
import time
from collections.abc import Callable

import cv2

from fahr.cohorts.synthetic import CohortOptions, face_of, jpeg, make_truth

ROUNDS, FACES = 5, 300


def rate(work: Callable[[int], object]) -> str:
    """Faces a second of processor time of this process, so that a busy neighbour counts less."""
    rates = []
    for round_ in range(ROUNDS):
        begin = time.process_time()
        for row in range(round_ * FACES, (round_ + 1) * FACES):
            work(row)
        rates.append(FACES / (time.process_time() - begin))
    return f"{statistics.median(rates):.0f} faces/s [{min(rates):.0f}-{max(rates):.0f}]"


def main() -> None:
    cv2.setNumThreads(1)
    options = CohortOptions()
    truth = make_truth(ROUNDS * FACES, seed=0, options=options)
    for row in range(100):  # the canonical head and every hair style are made once a process
        face_of(truth, row, seed=0, options=options)
    print(f"one core, {options.size_px} px, {ROUNDS} rounds of {FACES} faces, processor time")
    print("render        ", rate(lambda row: face_of(truth, row, seed=0, options=options)))
    print(
        "render + JPEG ",
        rate(lambda row: jpeg(face_of(truth, row, seed=0, options=options).image, options.jpeg_quality)),
    )


if __name__ == "__main__":
    main()
