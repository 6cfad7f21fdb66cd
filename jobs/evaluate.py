"""Judge scores by what happened to people: report.html, tables/*.csv, figures/*.png, results.json. Research use only.

Laptop:   python jobs/evaluate.py --scores out/scores --output out/report
          python jobs/evaluate.py --scores out/scores --outcomes deaths.csv --mapping hospital.yaml --output out/report
Cluster:  ray job submit --working-dir . --runtime-env cluster/runtime-env.yaml -- \\
              python jobs/evaluate.py --scores s3://bucket/scores --output s3://bucket/report

One table of people, many small statistics: it runs in the driver, on threads, and needs no cluster. The ledger is
written last; the same line again writes the same bytes.
"""

import hashlib
import time

from pydantic import model_validator

from fahr import store
from fahr.config import JobOptions, Location, option
from fahr.evaluation import Protocol, evaluate, read_cohort, read_outcomes
from fahr.report import evaluation_page
from fahr.version import code_version


class Options(Protocol, JobOptions):
    """Judge scores by what happened to people: a report with curves, hazard ratios, concordances and calibration.

    python jobs/evaluate.py --scores out/scores --output out/report
    """

    scores: Location = option(help="scores of people: the output of jobs/score.py", result=False)
    output: Location = option(help="folder for report.html, results.json, tables/ and figures/", result=False)
    outcomes: Location | None = option(
        None, help="table of what happened (.csv, .parquet), by photo_id or by subject_id",
        off="none: follow_up_days and event of the manifest, which scores carry", result=False,
    )  # fmt: skip
    mapping: Location | None = option(
        None, help="YAML column mapping for --outcomes: names, dates, codes, separator, units", off="none", result=False
    )

    @model_validator(mode="after")
    def _no_mapping_in_vain(self) -> "Options":
        if self.mapping is not None and self.outcomes is None:
            raise ValueError("--mapping says how to read --outcomes, and there are none: give both")
        return self


def main(options: Options) -> store.Ledger:
    """Read, analyse, write; the ledger tells what became of every photo."""
    if options.dry_run:
        print("resources: 1 process, threads for resamples, no cluster; about 1 kB of memory a photo")
        return store.Ledger("evaluate", 0, 0)
    started = time.monotonic()
    outcomes = None if options.outcomes is None else read_outcomes(options.outcomes, options.mapping)
    cohort = read_cohort(options.scores, options, outcomes)
    origin = {"options": options.digest(), "code": code_version()}
    for name, place in (("outcomes", options.outcomes), ("mapping", options.mapping)):
        if place is not None:
            origin[name] = _digest(place)
    found = evaluate(cohort, options, origin)
    place = evaluation_page.write(options.output, found)
    for section in found.sections:
        for line in section.refused:
            print(f"evaluate: not done, {section.heading.lower()}: {line}")
    options.write(store.join(options.output, "options.yaml"))
    more = {"scores": options.scores, "outcomes": options.outcomes, "people": len(cohort), "report": place}
    ledger = store.Ledger(
        "evaluate", cohort.photos, cohort.used, cohort.rejects(), options.digest(), code_version(), more
    ).check()
    ledger.write(store.join(options.output, "ledger.json"))
    print(ledger.line(time.monotonic() - started, "photos"))
    print(f"evaluate: {place}")
    return ledger


def _digest(place: str) -> str:
    """Of a file, or of the files of a folder, by name."""
    if store.exists(place):
        return store.digest(place)
    told = sorted(f"{store.name(each.location)} {store.digest(each.location)}" for each in store.list_files(place))
    return f"sha256:{hashlib.sha256(chr(10).join(told).encode()).hexdigest()}"


if __name__ == "__main__":
    from fahr.config import run_job
    from jobs.evaluate import Options, main

    run_job(Options, main)
