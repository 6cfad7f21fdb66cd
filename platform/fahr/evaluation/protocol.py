"""What is asked of a cohort: whose outcomes, adjusted for what, at which horizons. A protocol is these under one name.

class Options(Protocol, JobOptions): ...            # jobs/evaluate.py: every setting is a flag of its own
settings("standard")                                # {"covariates": ..., ...}: what a name, or a YAML file, says

The columns are the manifest's; a hospital's own names, codes, dates and units become those by a column mapping.
"""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, model_validator

from fahr import store
from fahr.config import Options, option, read_yaml
from fahr.errors import Refused, nearest

STANDARD = "standard"
# Named protocols: what each says otherwise than the defaults below. Those of papers belong here.
PROTOCOLS: dict[str, dict[str, Any]] = {STANDARD: {}}

Split = Literal["train", "tune", "calibrate", "test"]


def _located(given: str) -> str:
    return given if given in PROTOCOLS or not given.endswith((".yaml", ".yml")) else store.absolute(given)


class Protocol(Options):
    """Settings of an analysis. Those given beside a protocol win over the protocol's."""

    protocol: Annotated[str, AfterValidator(_located)] = option(
        STANDARD, help=f"named settings ({', '.join(PROTOCOLS)}), or a YAML file of them; flags win over it"
    )
    splits: tuple[Split, ...] = option(
        ("test",), help="whose outcomes are judged; all four for a cohort that no model has learned from", min_length=1
    )
    baseline_splits: tuple[Split, ...] = option(
        ("calibrate",), help="whose outcomes turn a risk into a chance; people of --splits are never taken",
        off="where they have too few events: the other folds of the people judged",
    )  # fmt: skip
    covariates: tuple[str, ...] | None = option(
        None, help="columns adjusted for, beside age", off="none: sex, as far as it is known"
    )
    strata: tuple[str, ...] = option((), help="columns with a baseline hazard of each value's own, such as site")
    horizons: tuple[float, ...] = option(
        (182, 365, 730), help="times after the photo at which chances are judged", unit="days", min_length=1
    )
    folds: int = option(5, help="parts of the people, where chances are learned from the others", ge=2, unit="folds")
    bootstraps: int = option(
        1000, help="resamples of people, of each interval that has no formula", ge=20, unit="resamples"
    )
    seed: int = option(0, help="of resamples and folds", ge=0, unit="any whole number")

    @model_validator(mode="before")
    @classmethod
    def _of_the_protocol(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        return {**settings(str(given.get("protocol", STANDARD))), **given}

    @model_validator(mode="after")
    def _in_order(self) -> "Protocol":
        if list(self.horizons) != sorted(set(self.horizons)) or self.horizons[0] <= 0:
            raise ValueError(f"--horizons {self.horizons}: must rise from above 0, in days")
        outcome = {"follow_up_days", "event", "entry_days", "age", "subject_id", "photo_id"}
        for name in (*(self.covariates or ()), *self.strata):
            if name in outcome:
                raise ValueError(
                    f"--covariates, --strata: {name} is the outcome, an id, or there anyway (age). Leave it out"
                )
        if both := set(self.covariates or ()) & set(self.strata):
            raise ValueError(f"--covariates, --strata: {', '.join(sorted(both))} stands in both. Give it once")
        return self


def settings(protocol: str) -> dict[str, Any]:
    """What a protocol says, by the names of `Protocol`. Refused: a name that nobody gave, a file with other keys."""
    if protocol in PROTOCOLS:
        return dict(PROTOCOLS[protocol])
    if not protocol.endswith((".yaml", ".yml")):
        raise Refused(
            f"--protocol {protocol}: is none of {', '.join(PROTOCOLS)}, nor a .yaml file.{nearest(protocol, PROTOCOLS)}"
        )
    found = read_yaml(store.absolute(protocol))
    known = [name for name in Protocol.model_fields if name != "protocol"]
    for name in found:
        if name not in known:
            raise Refused(f"{protocol}: {name} is no setting of a protocol.{nearest(name, known)} It has {known}.")
    return found
