"""Pretrain a masked autoencoder on aligned faces: checkpoint/, metrics.jsonl, pictures, and states to go on from.

Laptop:   python jobs/pretrain.py --config configs/laptop_vit_tiny.yaml --faces out/align --output out/mae --workers 0
Cluster:  ray job submit --working-dir . --runtime-env cluster/runtime-env.yaml -- \\
              python jobs/pretrain.py --config configs/paper_vit_base.yaml --faces s3://bucket/align \\
              --output s3://bucket/mae --workers 16 --gpus-per-worker 1 --cpus-per-worker 8

Kill anything at any moment and run the same line again: it goes on from the newest state, under the same digest of data
and options, and the curve is that of a run that was never killed. With another number of workers too.
"""

import copy
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import cv2
import numpy as np
import pyarrow.compute as pc
from pydantic import field_validator

from fahr import store
from fahr.config import Options as Group
from fahr.config import option
from fahr.errors import Refused, nearest
from fahr.models import Decoder, MaeOptions, MaskedAutoencoder, save
from fahr.models.architecture import SIZES
from fahr.models.reconstructions import draw
from fahr.report.charts import loss_chart
from fahr.training.augment import PRESETS, Augmentation
from fahr.training.background import Background
from fahr.training.begin import RANDOM, Begun, begin
from fahr.training.facesets import FaceSet, open_faces
from fahr.training.flops import count_flops, peak_flops
from fahr.training.journal import Journal
from fahr.training.judging import Faces, judge, sample
from fahr.training.keeper import Keeper
from fahr.training.loader import Loader
from fahr.training.recipe import Recipe
from fahr.training.run import Desk, Plan, copied, gathered, run
from fahr.training.sampling import Order
from fahr.training.state import Snapshot, fill, fresh
from fahr.training.step import world_size
from fahr.training.tasks import Pretraining
from fahr.training.workers import placed, rank, wrap
from fahr.version import code_version
from jobs import _run, _train
from jobs._run import Init, RunOptions
from jobs._train import Team

SHOWN = 8  # held-out faces in reconstructions.png


class DecoderOptions(Group):
    width: int = option(512, ge=4, help="length of its tokens", unit="numbers a token")
    depth: int = option(8, ge=1, help="how many blocks it has", unit="blocks")
    num_heads: int = option(16, ge=1, help="heads of its attention", unit="heads")


class Options(RunOptions):
    """Pretrain a masked autoencoder on aligned faces; the same line again goes on where it stopped.

    python jobs/pretrain.py --config configs/laptop_vit_tiny.yaml --faces out/align --output out/mae --workers 0
    """

    usual_epochs = 50  # the paper's length (docs/training.md)

    model: str = option("vit_base", help=f"size of the encoder: {', '.join(SIZES)}")
    patch: int = option(8, ge=1, help="side of a patch", unit="pixels")
    init: Init = option(RANDOM, help="weights to begin with: random, imagenet, a checkpoint, or a name it is known by")
    decoder: DecoderOptions = option(DecoderOptions(), help="the half that is thrown away afterwards")
    mae: MaeOptions = option(MaeOptions(), help="what is hidden and what is predicted")
    augmentation: Augmentation = option(PRESETS["mae"], help="what may happen to a face")
    judgements: int = option(
        5, ge=1, help="how often the model is judged on held-out faces", result=False, unit="times"
    )
    judged_faces: int = option(
        2000, ge=20, help="held-out faces, and as many for the probes to learn from", result=False, unit="faces"
    )

    @field_validator("model")
    @classmethod
    def _known(cls, given: str) -> str:
        if given not in SIZES:
            raise ValueError(f"model {given!r}: not one of {', '.join(SIZES)}.{nearest(given, SIZES)}")
        return given


def main(options: Options) -> store.Ledger:
    """One run per folder; a finished one is left as it is."""
    return _run.once(options, "pretrain", work)


# On every worker


def work(options: Options, digest: str, team: Team) -> dict[str, Any]:
    """Open, begin or go on, train, judge, save."""
    opening = time.monotonic()
    faces, recipe, begun = _train.together(lambda: _opened(options, digest))
    plain = copy.deepcopy(begun.model) if rank() == 0 else None
    # Before the task itself: a second one on the same model would take its keyed drop paths from the first.
    flops = count_flops(Pretraining(begun.model, recipe.model_copy(update={"compile": False})), faces.size)
    task = placed(Pretraining(begun.model, recipe, options.augmentation), team.device)
    wrapped = wrap(task, options.strategy, team.device)
    state = fresh(task.model, recipe)
    with Background(lambda text: team.tell({"warning": text})) as background:
        keeper = Keeper(
            store.join(options.output, "states"), digest, background, keep=options.keep,
            say=lambda text: team.tell({"warning": text}),
        )  # fmt: skip
        _run.go_on(keeper, state)
        journal = _train.together(
            lambda: _run.open_journal(options, "pretrain", options.output, digest, state, background)
        )
        desk = None
        if plain is not None and journal is not None:
            judging = _train_judge(options, plain, background, journal, team)
            peak = peak_flops(team.device, recipe.precision)
            desk = Desk(keeper, journal, background, judging, team.tell, flops, peak)
            said = f"goes on from sample {state.position:,}" if state.position else "begins at the first step"
            said += f", workers {world_size()}, ready in {time.monotonic() - opening:.0f} s"
            team.tell({
                "total": recipe.num_steps * recipe.global_batch, "position": state.position, "what": "pretraining",
                "said": f"pretrain: {digest} {said}",
            })  # fmt: skip
        loaders: list[Loader] = []
        run(
            wrapped,
            _run.open_batches(options, faces, Order(faces.num_rows, recipe.seed), recipe, team, loaders),
            recipe, state,
            plan=Plan.of(
                recipe, log_rows=options.log_rows, judgements=options.judgements,
                save_every_s=options.checkpoint_minutes * 60,
            ),
            digest=digest, desk=desk, device=team.device, noticed=team.noticed, stop=team.stop,
            report=team.report, bad=lambda: loaders[0].skipped if loaders else {},
        )  # fmt: skip
        bad = state.bad | gathered(loaders[0].skipped if loaders else {})
        last = copied(wrapped, state, digest, first=desk is not None)
        if desk is None:
            return {}
        assert plain is not None and last is not None
        fill(plain, last)
        return _finish(options, digest, desk, begun, plain, faces, recipe, bad)


def _opened(options: Options, digest: str) -> tuple[FaceSet, Recipe, Begun]:
    _run.check_unchanged(options, digest)
    faces = open_faces(
        options.faces, where=pc.field("split") == "train", cache=options.cache_folder(), packed=options.packed
    )
    recipe = options.recipe(faces.num_rows)
    if recipe.global_batch > faces.num_rows:
        raise Refused(
            f"--global-batch {recipe.global_batch:,}: more than the {faces.num_rows:,} faces of the train split in "
            f"{options.faces}. Give at most that, or align more faces."
        )
    decoder = Decoder(options.decoder.width, options.decoder.depth, options.decoder.num_heads)
    begun = begin(
        options.model, options.patch, size=faces.size, decoder=decoder, options=options.mae, init=options.init,
        convention=faces.convention, seed=recipe.seed,
    )  # fmt: skip
    recipe.accumulation(world_size())  # refuses what can't be shared out
    return faces, recipe, begun


# On the first worker


def _train_judge(
    options: Options, plain: MaskedAutoencoder, background: Background, journal: Journal, team: Team
) -> Callable[[Snapshot, int], Mapping[str, Any]] | None:
    """State -> a row of metrics.jsonl; pictures on the side. None where nobody was held out."""
    held_out = _held_out(options)
    if held_out is None:
        team.tell({"warning": "pretrain: no face has split `tune`, so none is held out: no probes, no pictures"})
        return None
    learnt_from, judged = held_out
    shown = judged.pixels[:: max(1, len(judged.pixels) // SHOWN)][:SHOWN]

    def judgement(taken: Snapshot, position: int) -> Mapping[str, Any]:
        began = time.monotonic()
        fill(plain, taken)
        model = plain.to(team.device)
        found = judge(model, learnt_from, judged, seed=options.seed, precision=options.precision)
        picture = draw(model, shown, seed=options.seed)
        journal.picture("reconstructions", picture, position)
        done, png = cv2.imencode(".png", picture[:, :, ::-1])
        assert done
        _run.put(background, store.join(options.output, "reconstructions.png"), png.tobytes())
        row = {**found.to_json(), "seconds": time.monotonic() - began}
        rows = [*journal.rows, {"kind": "judged", "position": position, **row}]
        _run.put(
            background, store.join(options.output, "loss.png"), loss_chart(rows, f"{options.model}/{options.patch}")
        )
        return row

    return judgement


def _held_out(options: Options) -> tuple[Faces, Faces] | None:
    """Faces of the train split, for the probes to learn from, and of the tune split; None where that is empty."""
    if "tune" not in open_faces(options.faces, cache=options.cache_folder()).table["split"].unique().to_pylist():
        return None
    learnt_from, judged = (
        sample(
            open_faces(
                options.faces, where=pc.field("split") == split, cache=options.cache_folder(),
                optional=["age", "sex", "race"],
            ),
            options.judged_faces,
            options.seed,
        )
        for split in ("train", "tune")
    )  # fmt: skip
    return learnt_from, judged


def _finish(
    options: Options, digest: str, desk: Desk, begun: Begun, model: MaskedAutoencoder, faces: FaceSet, recipe: Recipe,
    bad: Mapping[int, str],
) -> dict[str, Any]:  # fmt: skip
    """The checkpoint, then the ledger, which marks the run as finished; then the states go."""
    judged = [row for row in desk.journal.rows if row["kind"] == "judged"]
    steps = [row for row in desk.journal.rows if row["kind"] == "step"]
    seen, skipped = steps[-1]["position"], steps[-1]["skipped_steps"]
    metrics = {"run": digest, "samples": seen, "skipped_steps": skipped, "loss": steps[-1]["loss"]}
    if judged:
        metrics["judged"] = {name: value for name, value in judged[-1].items() if name not in ("kind", "seconds")}
    config = {
        "detector": "+".join(faces.detectors),
        "convention": faces.convention,
        "data_digest": faces.digest,
        "parent_checkpoint": begun.parent,
        "origin": begun.origin,
        "metrics": metrics,
    }
    desk.journal.flush()
    desk.background.wait(_run.FINISH_S)
    desk.journal.close()
    card = f"Pretrained on {faces.num_rows:,} faces: {recipe.num_steps:,} steps of {recipe.global_batch:,} samples."
    save(model, store.join(options.output, "checkpoint"), config=config, card=card, overwrite=True)
    ledger = store.Ledger(
        "pretrain", faces.num_rows, faces.num_rows - len(bad), {"unreadable": len(bad)} if bad else {}, digest,
        code_version(), {"faces": options.faces, "samples": seen, "skipped_steps": skipped},
    ).check()  # fmt: skip
    ledger.write(store.join(options.output, "ledger.json"))
    desk.keeper.clear()
    return {"line": _line(judged, steps)}


def _line(judged: list[dict[str, Any]], steps: list[dict[str, Any]]) -> str:
    told = [f"loss {steps[-1]['loss']:.4f}"]
    if judged:
        last = judged[-1]
        told.append(
            f"held out {last['masked_loss']:.4f}, {last['psnr']:.1f} dB (mean colours {last['psnr_of_means']:.1f})"
        )
        if last.get("linear"):
            told.append(f"linear age probe {last['linear']['mae']:.2f} years, nearest faces {last['knn']['mae']:.2f}")
    rates = [row["samples_per_second"] for row in steps]
    told.append(f"{np.median(rates):,.0f} samples/s" if not math.isnan(np.median(rates)) else "")
    return ", ".join(told)


if __name__ == "__main__":
    from fahr.config import run_job
    from jobs.pretrain import Options, main

    run_job(Options, main)
