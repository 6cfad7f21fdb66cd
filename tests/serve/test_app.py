"""The application through Ray Serve and real HTTP: the same numbers, rejects and digests as jobs/score.py."""

import base64
import concurrent.futures
import json
import re
import shlex
import subprocess
from datetime import date
from pathlib import Path

import cv2
import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray

from fahr import store
from fahr.errors import Refused
from fahr.models import load
from fahr.scores import Team, plan_models
from jobs import score
from serve.app import plan_routes
from serve.backbone import Family
from serve.schemas import FaceAgeAnswer, FaceAgingRateAnswer, ModelsAnswer, ProblemDetails, SurvivalRiskAnswer
from serve.settings import ServeSettings
from tools.models import with_the_trunk_of
from tools.service import until

YEARS, SDS = 0.01, 0.001  # what an answer may differ by
DAYS = (date(2020, 3, 1), date(2022, 5, 1))


@pytest.fixture(scope="module")
def scored(models, photos, tmp_path_factory, cluster):
    """What jobs/score.py says of the same photos, two of them of one person, and of three that cannot be scored."""
    root = tmp_path_factory.mktemp("scored")
    grey = cv2.imencode(".jpg", np.full((200, 200, 3), 128, np.uint8))[1].tobytes()
    bad = {"grey.jpg": grey, "text.jpg": b"no picture at all", "cut.jpg": photos[0][:4000]}
    files = {f"good{number}.jpg": data for number, data in enumerate(photos)} | bad
    rows = ["photo_id,uri,age,subject_id,taken_on"]
    for number, (name, data) in enumerate(files.items()):
        (root / name).write_bytes(data)
        who, day = ("twice", DAYS[number]) if number < 2 else (name, "")
        rows.append(f"{name},{name},{61.5 if number else ''},{who},{day}")
    (root / "people.csv").write_text("\n".join(rows) + "\n")
    score.main(
        score.Options(
            manifest=str(root / "people.csv"), models=list(models.values()), output=str(root / "out"), workers=1,
            cpus_per_worker=0.5, memory_per_worker=0.1, precision="fp32",
        )
    )  # fmt: skip
    tables = {kind: pa.concat_tables(store.read_units(str(root / "out"), kind)) for kind in ("scores", "rejects")}
    told = {kind: {row["photo_id"]: row for row in table.to_pylist()} for kind, table in tables.items()}
    told["rates"] = {row["subject_id"]: row for row in pq.read_table(root / "out" / "aging_rates.parquet").to_pylist()}
    return files, told


def test_face_age_over_http_is_that_of_the_score_job(served, scored, photos):
    _, told = scored
    for number, photo in enumerate(photos[1:], 1):
        reply = served.http.post("/v1/face-age", files={"photo": photo}, data={"age": "61.5"})
        assert reply.status_code == 200, reply.text
        answer, row = FaceAgeAnswer.model_validate_json(reply.content), told["scores"][f"good{number}.jpg"]
        assert answer.face_age == pytest.approx(row["face_age"], abs=YEARS)
        assert answer.low == pytest.approx(row["face_age_low"], abs=YEARS)
        assert answer.high == pytest.approx(row["face_age_high"], abs=YEARS)
        assert answer.face_age_deviation == pytest.approx(row["face_age_deviation"], abs=YEARS)
        assert answer.model.digest == row["age_model_digest"] and answer.model.detector == "mtcnn"


def test_survival_risk_over_http_is_that_of_the_score_job_whatever_its_company(served, scored, photos):
    """All at once, so that batches of many shapes form."""
    _, told = scored

    def ask(number: int) -> None:
        reply = httpx.post(f"{served.url}/v1/survival-risk", files={"photo": photos[number]}, timeout=60)
        answer, row = SurvivalRiskAnswer.model_validate_json(reply.content), told["scores"][f"good{number}.jpg"]
        assert abs(answer.risk - row["survival_risk"]) <= SDS
        assert answer.percentile == pytest.approx(row["survival_percentile"], abs=0.1)
        assert answer.model.digest == row["survival_model_digest"]

    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        list(pool.map(ask, [number % len(photos) for number in range(24)]))


def test_several_photos_give_their_median_and_json_the_same_as_multipart(served, photos):
    alone = [_age(served, [photo]) for photo in photos[:3]]
    answer = _age(served, photos[:3])
    assert answer.face_age == pytest.approx(np.median([each.face_age for each in alone]), abs=YEARS)
    assert [each.photo for each in answer.photos] == [0, 1, 2]
    body = {"photos": [{"data": base64.b64encode(photo).decode()} for photo in photos[:3]]}
    reply = served.http.post("/v1/face-age", json=body)
    assert FaceAgeAnswer.model_validate_json(reply.content).face_age == pytest.approx(answer.face_age, abs=YEARS)


def _age(served, photos) -> FaceAgeAnswer:
    reply = served.http.post("/v1/face-age", files=[("photo", photo) for photo in photos])
    assert reply.status_code == 200, reply.text
    return FaceAgeAnswer.model_validate_json(reply.content)


def test_the_aging_rate_over_http_is_that_of_the_score_job(served, scored, photos):
    _, told = scored
    reply = served.http.post(
        "/v1/face-aging-rate", files=[("photo", photo) for photo in photos[:2]],
        data={"taken_on": [day.isoformat() for day in DAYS]},
    )  # fmt: skip
    answer, row = FaceAgingRateAnswer.model_validate_json(reply.content), told["rates"]["twice"]
    for name in ("face_aging_rate", "standard_error", "shrunken_rate"):
        assert getattr(answer, name) == pytest.approx(row[name], abs=YEARS), name
    assert (answer.interval_days, answer.band, answer.high) == (row["interval_days"], row["band"], row["high"])
    assert (answer.first_taken_on, answer.last_taken_on) == DAYS


def test_what_the_score_job_rejects_is_refused_for_the_same_reason(served, scored):
    files, told = scored
    assert {name: row["reason"] for name, row in told["rejects"].items()} == {
        "grey.jpg": "no_face", "text.jpg": "unreadable", "cut.jpg": "unreadable",
    }  # fmt: skip
    for name, row in told["rejects"].items():
        reply = served.http.post("/v1/face-age", files=[("photo", files["good1.jpg"]), ("photo", files[name])])
        problem = ProblemDetails.model_validate_json(reply.content)
        assert reply.headers["content-type"] == "application/problem+json"
        assert reply.status_code == (415 if name == "text.jpg" else 422)
        assert (problem.reason, problem.photo) == (row["reason"], 1)
        assert problem.detail == row["detail"] and problem.request_id == reply.headers["x-request-id"]


def test_no_rate_is_told_with_its_reason(served, photos):
    days = {"taken_on": ["2024-01-01", "2024-01-05"]}
    reply = served.http.post("/v1/face-aging-rate", files=[("photo", photo) for photo in photos[:2]], data=days)
    assert reply.status_code == 422 and reply.json()["reason"] == "interval_too_short"


def test_models_are_listed_with_their_cards(served, models):
    listed = ModelsAnswer.model_validate_json(served.http.get("/v1/models").content).models
    assert {each.name: each.digest for each in listed} == {task: load(place).digest for task, place in models.items()}
    assert all(each.traffic == 1 and not each.shadow and "For research only" in each.card for each in listed)
    assert listed[0].calibrated["conformal"] and not listed[0].calibrated["bias_correction"]


def test_pages_and_probes_answer(served):
    assert served.http.get("/healthz").json() == {"status": "alive"}
    assert served.http.get("/readyz").json() == {"status": "ready"}
    page = served.http.get("/")
    assert page.headers["content-type"].startswith("text/html") and "Research use only" in page.text
    paths = served.http.get("/openapi.json").json()["paths"]
    docs = served.http.get("/docs").text
    assert all(path in docs for path in paths) and "face_age_deviation" in docs and "taken_on" in docs
    assert not re.search(r"<script|<link|@import|url\(|(src|href|action)=.?(https?:)?//", docs), (
        "it tells others who reads it"
    )
    assert {"/v1/face-age", "/v1/survival-risk", "/v1/face-aging-rate", "/v1/models", "/v1/cohorts"} <= set(paths)
    assert served.http.get("/nothing").status_code == 404


def curl_lines() -> list[str]:
    """Of README and docs/serve.md, as they stand there; cohorts need a folder (test_cohorts_submitted.py)."""
    root = Path(__file__).resolve().parents[2]
    texts = [(root / name).read_text() for name in ("README.md", "docs/serve.md")]
    found = re.findall(r"^curl .*http://127.0.0.1:8000/\S*", "\n".join(texts), re.M)
    return [line for line in dict.fromkeys(found) if "/v1/cohorts" not in line]


@pytest.mark.parametrize("line", curl_lines())
def test_the_curl_lines_of_the_documents_work_as_they_stand(served, photos, tmp_path, line):
    for name, data in zip(("face.jpg", "2020.jpg", "2022.jpg"), photos, strict=False):
        (tmp_path / name).write_bytes(data)
    words = shlex.split(line.replace("http://127.0.0.1:8000", served.url))
    done = subprocess.run(
        [*words, "--noproxy", "*", "-sS", "-w", "\n%{http_code}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.splitlines()[-1] in ("200", "202"), (line, done.stdout, done.stderr)


def test_metrics_are_there_for_prometheus_and_the_log_has_a_line_a_request_without_a_pixel(served, photos):
    name = "find-me-in-the-log"
    reply = served.http.post("/v1/face-age", files={"photo": photos[0]}, headers={"X-Request-ID": name})
    assert reply.headers["x-request-id"] == name and reply.headers.get_list("x-request-id") == [name]
    line = until(lambda: _logged(name))
    told = json.loads(line)
    assert name in told["message"] and "path=/v1/face-age" in told["message"] and "status=200" in told["message"]
    assert len(line) < 2000
    [node] = [each for each in ray.nodes() if each["Alive"]]
    url = f"http://127.0.0.1:{node['MetricsExportPort']}/metrics"
    wanted = ("fahr_request_seconds", "fahr_stage_seconds", "fahr_batch_items", "fahr_waiting_items", "fahr_rejects")

    def exported() -> bool:
        text = httpx.get(url, timeout=10, trust_env=False).text
        return all(f"ray_{each}" in text for each in wanted) and 'reason="no_face"' in text

    until(exported)


def _logged(name: str) -> str | None:
    folder = Path(ray._private.worker._global_node.get_session_dir_path()) / "logs" / "serve"
    for file in folder.glob("replica_fahr_ingress_*"):
        for line in file.read_text(errors="replace").splitlines():
            if name in line and "request " in line:
                return line
    return None


# Families, shares, shapes: without Serve


def test_with_one_shape_every_score_is_that_of_the_job_to_the_bit_alone_or_not(models):
    plans = plan_models([models["age"]])
    rng = np.random.default_rng(0)
    faces = [{plans[0].cut: rng.integers(0, 256, (112, 112, 3), np.uint8)} for _ in range(35)]
    expected = Team(plans, batch=16).values(faces)["age"]  # 35 at once: two full batches and a rest
    faces, expected = faces[-16:], expected[-16:]
    fixed, free = Family(plans, most=16, fixed_shape=True), Family(plans, most=16)
    np.testing.assert_array_equal(fixed.values(faces)["age"], expected)
    np.testing.assert_array_equal([fixed.values([face])["age"][0] for face in faces], expected)
    for size in (1, 3, 7):  # as it comes, of the shape of whoever waits
        made = np.concatenate([free.values(faces[at : at + size])["age"] for at in range(0, 16, size)])
        assert np.abs(made - expected).max() <= YEARS


def test_models_of_one_trunk_share_a_backbone_and_others_do_not(models, tmp_path):
    twin = with_the_trunk_of(models["age"], tmp_path / "twin")
    routes, _ = plan_routes(ServeSettings.model_validate({"models": [models["age"], twin, models["survival"]],
                                                          "host": "127.0.0.1"}))  # fmt: skip
    assert [(each.name, each.family) for each in routes] == [
        ("age", "age"), ("survival", "age"), ("survival-2", "survival-2"),
    ]  # fmt: skip
    plans = plan_models([models["age"], twin])
    together, apart = Family(plans, most=4, precision="fp32"), Team(plans, batch=4, precision="fp32")
    faces = [{plans[0].cut: np.random.default_rng(seed).integers(0, 256, (112, 112, 3), np.uint8)} for seed in range(4)]
    for task, values in apart.values(faces).items():
        np.testing.assert_array_equal(together.values(faces)[task], values)
    with pytest.raises(Refused, match="another trunk"):
        Family(plan_models([models["age"], models["survival"]]), most=4)


def test_shares_come_to_one_and_the_first_has_what_is_left(models):
    def shares(*versions: dict) -> list[float]:
        given = {"models": [{"checkpoint": models["age"], **each} for each in versions], "host": "127.0.0.1"}
        return [round(each.share, 6) for each in plan_routes(ServeSettings.model_validate(given))[0]]

    assert shares({}, {"share": 0.05}) == [0.95, 0.05]
    assert shares({"share": 0.3}, {"share": 0.7}, {"shadow": True}) == [0.3, 0.7, 0]
    assert shares({}, {}) == [1, 0]
    for impossible in ([{"share": 0.3}], [{"share": 0.7}, {"share": 0.6}], [{"shadow": True}]):
        with pytest.raises(Refused, match="the shares of the age models come to"):
            shares(*impossible)
    with pytest.raises(ValueError, match="a shadow answers nobody"):
        shares({"share": 0.3, "shadow": True})
    with pytest.raises(Refused, match="the name 'age' is taken"):
        shares({}, {"name": "age"})
