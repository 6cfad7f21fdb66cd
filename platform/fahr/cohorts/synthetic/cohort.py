"""A synthetic cohort on disk: photos, the manifest that a study would hold, and the truth behind it.

    OUT/photos/s0000000-p0.jpg ...   OUT/manifest.parquet   OUT/truth.parquet

The two tables are written last and whole, so a folder with a manifest is a finished one.
"""

import os
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa

from fahr import store
from fahr.cohorts.synthetic.faces import Face, render_face
from fahr.cohorts.synthetic.options import CohortOptions
from fahr.cohorts.synthetic.truth import Truth, make_truth
from fahr.cohorts.writing import write_manifest
from fahr.errors import Refused
from fahr.progress import progress


def make_cohort(
    subjects: int,
    photos_per_subject: int = 1,
    seed: int = 0,
    out: str | os.PathLike[str] = "cohort",
    options: CohortOptions | None = None,
) -> tuple[Path, Path]:
    """Render a cohort into the new or empty folder `out`; gives the paths of manifest.parquet and truth.parquet.

    `photos_per_subject` is how many are planned: one that falls on or after the day of death or last contact is never
    taken, so there are fewer rows than subjects x photos. truth.parquet has a row a photo in the manifest's order:
    photo_id, subject_id, age, apparent_age, dev_ref, deviation (all years), frailty (SD), aging_rate (years a year) and
    log_hazard (log of the hazard per year, at the photo). See `truth` for the model, and for what shrinks a
    coefficient: leaving frailty out, or a noisy face age, changes the target, and neither is a bias of yours.
    """
    options = options or CohortOptions()
    folder = _new_folder(out)
    truth = make_truth(subjects, photos_per_subject=photos_per_subject, seed=seed, options=options)
    (folder / "photos").mkdir(parents=True)
    landmarks = np.empty((truth.manifest.num_rows, 10))
    with progress(truth.manifest.num_rows, "photos", f"rendering {folder.name}") as bar:
        for row, uri in enumerate(truth.manifest.column("uri").to_pylist()):
            face = face_of(truth, row, seed=seed, options=options)
            landmarks[row] = face.landmarks.ravel()
            (folder / uri).write_bytes(jpeg(face.image, options.jpeg_quality))
            bar.update()
    points = pa.array(np.round(landmarks, 2).tolist(), pa.list_(pa.float64()))
    manifest_path, truth_path = folder / "manifest.parquet", folder / "truth.parquet"
    write_manifest(truth.truth, truth_path)
    write_manifest(truth.manifest.append_column("landmarks", points), manifest_path)
    return manifest_path, truth_path


def face_of(truth: Truth, row: int, *, seed: int, options: CohortOptions) -> Face:
    """The photo of one row, rendered; any row alone gives the same bytes as the whole cohort."""
    return render_face(
        seed=seed,
        subject=int(truth.subject[row]),
        photo=int(truth.number[row]),
        apparent_age=truth.truth.column("apparent_age")[row].as_py(),
        frailty=truth.truth.column("frailty")[row].as_py(),
        sex=truth.manifest.column("sex")[row].as_py(),
        race=truth.manifest.column("race")[row].as_py(),
        options=options,
    )


def jpeg(image: np.ndarray, quality: int) -> bytes:
    """RGB to JPEG bytes."""
    done, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    assert done
    return data.tobytes()


def _new_folder(out: str | os.PathLike[str]) -> Path:
    location = store.absolute(out)
    if store.is_s3(location):
        raise Refused(
            f"{location}: a cohort is rendered into a local folder. Render it here and copy the folder there."
        )
    folder = Path(location)
    if folder.exists() and not folder.is_dir():
        raise Refused(f"{folder} is a file; a cohort needs a folder of its own. Name another place.")
    if folder.is_dir() and any(folder.iterdir()):
        raise Refused(f"{folder} is not empty; a cohort never mixes with other files. Empty it or name a new folder.")
    return folder
