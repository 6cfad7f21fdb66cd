"""What the service is made of: the typed arguments of `serve.app:build`.

serve run serve.app:build models=out/demo/models/age,out/demo/models/survival    # the least that is needed
serve deploy serve/fahr.yaml                                                             # every number, its reason
"""

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from fahr.config import Location, Options, option
from fahr.faces.quality import QualityGate
from fahr.models.checkpoints.hub import KNOWN, UNPUBLISHED
from fahr.store import absolute
from serve.cohorts import CohortSettings
from serve.limits import Limits


class Version(Options):
    """One checkpoint at work. The first of a task answers what the others leave."""

    checkpoint: str = option(help="folder or s3:// URI of a checkpoint, or a name that weights are known by")
    name: str | None = option(None, help="what /v1/models calls it", off="none: its task; then age-2, age-3")
    share: float | None = option(
        None, help="of the requests of its task, how many it answers", unit="0 to 1",
        off="none: what the others leave to the first, 0 for the rest", ge=0, le=1,
    )  # fmt: skip
    shadow: bool = option(
        False, help="score beside the one that answers: counted and compared, never told", off="false"
    )

    @field_validator("checkpoint")
    @classmethod
    def _place(cls, given: str) -> str:
        return given if given in (*KNOWN, *UNPUBLISHED) else absolute(given)

    @model_validator(mode="after")
    def _answers_or_not(self) -> "Version":
        if self.shadow and self.share:
            raise ValueError(f"share {self.share}: a shadow answers nobody. Leave one of the two out")
        return self


class Stage(Options):
    """Replicas of one deployment, and how many there are of them."""

    batch: int = option(help="items done at once at most", unit="photos or faces", ge=1, le=256)
    threads: int = option(0, help="of torch and OpenCV in a replica", off="0: as many as the machine has cores", ge=0)
    cpus: float = option(1.0, help="CPU that a replica reserves", unit="CPU", ge=0)
    gpus: float = option(0.0, help="GPU that a replica reserves; 0.5: two share one", unit="GPU", off="0", ge=0)
    least_replicas: int = option(1, help="replicas when nobody asks", unit="replicas", ge=1)
    most_replicas: int = option(4, help="replicas under load", unit="replicas", ge=1)
    upscale_delay_s: float = option(10, help="how long there must be too much to do before one more starts", ge=0)
    downscale_delay_s: float = option(300, help="how long there must be too little to do before one stops", ge=0)

    @model_validator(mode="after")
    def _ordered(self) -> "Stage":
        if self.least_replicas > self.most_replicas:
            raise ValueError(f"least_replicas {self.least_replicas}: is more than most_replicas {self.most_replicas}")
        return self

    @property
    def ongoing(self) -> int:
        """Requests in a replica: a full batch at work and a full one waiting, so that the next starts full."""
        return 2 * self.batch

    @property
    def device(self) -> str:
        return "cuda" if self.gpus else "cpu"


class ServeSettings(Options):
    """Everything about the application. Unknown keys are refused."""

    models: list[Version] = Field(min_length=1, description="checkpoints; `models=a,b` on a command line")

    # How a face is read: what jobs/score.py calls the same, with its defaults.
    detector: str | None = option(None, help="what finds a face", off="none: the one that the checkpoint names")
    many_faces: Literal["reject", "largest"] = option("reject", help="what to do with a photo of several people")
    gate: QualityGate = option(QualityGate(), help="least quality by component")
    flip: bool | None = option(None, help="mean of a face and its mirror image", off="none: as the model was measured")
    precision: Literal["bf16", "fp32"] = option("bf16", help="of the network; heads are fp32 always")
    fixed_shape: bool = option(
        False, help="every batch has backbone.batch rows: a score is then that of jobs/score.py to the bit, and a "
        "request alone takes as long as a full batch", off="false: equal to 0.01 years",
    )  # fmt: skip

    # Who does the work.
    together: bool = option(
        False, help="ingress, aligner and networks in one process, of which `backbone` says how many there are: "
        "nothing is packed and sent between them", off="false: each is a deployment, and grows with its own work",
    )  # fmt: skip
    aligner: Stage = option(Stage(batch=8), help="replicas that find and cut faces")
    backbone: Stage = option(Stage(batch=16), help="replicas of each network")
    ingress_replicas: int = option(1, help="processes that speak HTTP, where not together", unit="replicas", ge=1)

    # Who may ask, how much, and what happens when there is too much of it.
    host: str = option(
        "0.0.0.0", help="where Serve's proxy listens: on 127.0.0.1 no token is needed; the same as http_options.host"
    )
    tokens: Location | None = option(
        None, help="file of bearer tokens, one a line", off="none: the variable FAHR_TOKENS"
    )
    limits: Limits = option(Limits(), help="of a request: bytes, pixels, photos, seconds")
    cohorts: CohortSettings = option(CohortSettings(), help="cohorts over HTTP, whose CPUs no replica can take")
    most_in_flight: int = option(
        64, help="requests being answered by one ingress at once; the next one gets 503 and Retry-After", ge=1
    )
    retry_after_s: int = option(1, help="what Retry-After says", unit="s", ge=1)
    drain_s: float = option(20, help="a replica that stops finishes what it has for so long", unit="s", gt=0)
    health_period_s: float = option(10, help="a built-in face is scored so often", unit="s", gt=0)

    def of_aligner(self) -> dict[str, Any]:
        """What a replica of it is made of. A change of anything else restarts none."""
        return {
            "batch": self.aligner.batch,
            "threads": self.aligner.threads,
            "device": self.aligner.device,
            "many_faces": self.many_faces,
            "gate": self.gate,
            "limits": self.limits.of_photo(),
        }

    def of_backbone(self) -> dict[str, Any]:
        """Likewise; its checkpoints come as user_config."""
        return {
            "batch": self.backbone.batch,
            "threads": self.backbone.threads,
            "device": self.backbone.device,
            "detector": self.detector,
            "flip": self.flip,
            "precision": self.precision,
            "fixed_shape": self.fixed_shape,
        }

    def of_ingress(self) -> "ServeSettings":
        """Likewise: without models and stages."""
        fields = type(self).model_fields
        return self.model_copy(
            update={"models": [], **{name: fields[name].default for name in ("aligner", "backbone")}}
        )

    def scoring(self) -> dict[str, Any]:
        """The same readings of a photo, as options of jobs/score.py."""
        return {
            "detector": self.detector,
            "many_faces": self.many_faces,
            "gate": self.gate.model_dump(),
            "max_pixels": self.limits.photo_pixels,
            "max_bytes": self.limits.photo_bytes,
            "flip": self.flip,
            "precision": self.precision,
        }

    @field_validator("models", mode="before")
    @classmethod
    def _listed(cls, given: Any) -> Any:
        """`a,b`, as a command line has it; a bare place for a version."""
        many = [each.strip() for each in given.split(",")] if isinstance(given, str) else given
        if not isinstance(many, list | tuple):
            return many
        return [{"checkpoint": each} if isinstance(each, str) else each for each in many]
