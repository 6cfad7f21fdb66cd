"""What a synthetic cohort is made of. Every unit is in the name; strength 0 removes a cue from the faces."""

from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationError

from fahr.errors import Refused, nearest


class _Options(BaseModel, frozen=True, extra="forbid"):
    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise Refused("; ".join(_sentence(type(self), problem) for problem in error.errors())) from None


def _sentence(model: type[BaseModel], problem: Any) -> str:
    name = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        known = sorted(model.model_fields)
        return f"{model.__name__} has no option {name!r}.{nearest(name, known)} Options: {', '.join(known)}."
    rule = problem["msg"][0].lower() + problem["msg"][1:]
    return f"{name}={problem['input']!r}: {rule}. Leave it out for the default."


class CueStrengths(_Options, frozen=True):
    """How strongly a cue is drawn: 1 as in an ordinary person, 0 not at all. Six follow age, the last two frailty."""

    folds: float = Field(1.0, ge=0, le=3)  # nasolabial folds
    forehead: float = Field(1.0, ge=0, le=3)  # forehead lines
    temples: float = Field(1.0, ge=0, le=3)  # hollow temples, and the hairline above them
    texture: float = Field(1.0, ge=0, le=3)  # coarse skin and spots on forehead, cheeks and chin
    hair: float = Field(1.0, ge=0, le=3)  # grey and thin hair
    jaw: float = Field(1.0, ge=0, le=3)  # jowls
    under_eye: float = Field(1.0, ge=0, le=3)  # dark, swollen skin under the eyes
    bridge: float = Field(1.0, ge=0, le=3)  # sharp, shaded nasal bridge


class CohortOptions(_Options, frozen=True):
    """The people, their fate and their photographs. The planted effects are constants of `truth`."""

    age_shape: Literal["uniform", "skewed"] = "uniform"  # skewed: 20-90 still, but about one in fifty is over 75
    baseline_hazard_per_year: float = Field(0.16, gt=0, le=5)  # of a person of 60 with deviation 0, frailty 0, rate 1
    rate_log_hazard: float = Field(0.5, ge=-3, le=3)  # b_rate: log hazard ratio of one unit of aging rate
    event_share: float = Field(
        0.5, gt=0, lt=1
    )  # deaths among subjects, in expectation; random censoring brings it about
    accrual_years: float = Field(8.0, gt=0, le=50)  # first photos are spread evenly over these years
    follow_up_years: float = Field(6.0, gt=0, le=50)  # from the last person's first photo to the closing date
    delayed_entry_share: float = Field(0.3, ge=0, le=1)  # people who come under observation only after the first photo
    delayed_entry_mean_days: float = Field(120.0, gt=0, le=3650)  # of those, exponential
    same_day_share: float = Field(0.1, ge=0, le=1)  # later photos taken on the day of the one before
    size_px: int = Field(256, ge=96, le=1024)  # width and height of a photo
    jpeg_quality: int = Field(92, ge=30, le=100)
    # nobody's folds and hair are equally old: SD per person and cue, in years and in SD of frailty
    cue_scatter_years: float = Field(6.0, ge=0, le=20)
    cue_scatter_frailty: float = Field(0.5, ge=0, le=3)
    cues: CueStrengths = CueStrengths()
