"""Shapes: written down and read back, and refused in a sentence where they can't be built."""

import json
from typing import Any

import pytest

from fahr.errors import Refused
from fahr.models import Architecture, Backbone, Decoder, MaeOptions, MaskedAutoencoder, Predictor, build, create
from fahr.models.architecture import SIZES, TASKS, architecture_from_json


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("name", SIZES)
def test_json_and_back(name: str, task: str) -> None:
    shape = Architecture.named(name, patch=8, task=task)
    assert Architecture.from_json(json.loads(json.dumps(shape.to_json()))) == shape
    assert shape.num_patches == 196 and shape.grid == 14


def test_create_makes_what_was_asked_for() -> None:
    decoder = Decoder(64, 2, 4)
    model = create("vit_tiny", patch=14, size=56, decoder=decoder)
    assert isinstance(model, MaskedAutoencoder) and model.training
    assert model.architecture == Architecture("vit_tiny", 192, 12, 3, 14, 56, "mae", 4.0, decoder)
    assert create("vit_tiny").architecture.decoder == Decoder(512, 8, 16)
    for task in ("age", "survival"):
        assert isinstance(create("vit_tiny", task=task), Predictor)
    assert build(model.architecture).state_dict().keys() == model.state_dict().keys()


def test_a_shape_from_before_pre_norm_and_activation_is_the_standard_one() -> None:
    shape = Architecture.named("vit_tiny", task="age")
    written = shape.to_json()
    assert (written.pop("pre_norm"), written.pop("activation")) == (False, "gelu")
    assert Architecture.from_json(written) == shape
    of_clip = Architecture("small", 64, 2, 1, 8, 32, "age", pre_norm=True, activation="quick_gelu")
    assert Architecture.from_json(json.loads(json.dumps(of_clip.to_json()))) == of_clip != shape


def changed(**values: Any) -> dict[str, Any]:
    return {**Architecture.named("vit_tiny").to_json(), **values}


GOOD = Architecture.named("vit_tiny").to_json()


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (changed(widht=3), r"unknown key 'widht'; known are .*Did you mean 'width'\?"),
        ({key: value for key, value in GOOD.items() if key != "depth"}, r"lacks depth\. Every key is needed"),
        (changed(decoder={"width": 8}), r"decoder: lacks depth, num_heads"),
        (changed(decoder={"width": 8, "depth": 1, "num_heads": 1, "x": 1}), r"decoder: unknown key 'x'"),
        (changed(decoder=512), r"decoder 512: must be a mapping"),
        (changed(decoder=None), r"task 'mae': needs a decoder. Give"),
        (changed(task="age"), r"task 'age': takes no decoder. Leave it out"),
        (changed(width="192"), r"width '192': must be a whole number of at least 1"),
        (changed(depth=0), r"depth 0: must be"),
        (changed(depth=True), r"depth True: must be"),
        (changed(width=100, num_heads=3), r"width 100 must be a multiple of its 3 heads"),
        (changed(width=90, num_heads=3), r"width 90 must be a multiple of 4"),
        (changed(mlp_ratio=0), r"mlp_ratio 0: must be a number above 0"),
        (changed(pre_norm=1), r"pre_norm 1: must be true or false; false in every standard ViT"),
        (
            changed(activation="quickgelu"),
            r"activation 'quickgelu': not one of gelu, quick_gelu\. Give gelu .* Did you mean 'quick_gelu'\?",
        ),
        (changed(activation=["gelu"]), r"activation \['gelu'\]: not one of"),
        ([], r"architecture \[\]: must be a mapping"),
        (changed(head="valeu"), r"head 'valeu': not one of value, .*Did you mean 'value'\?"),
        (changed(head=["value"]), r"head \['value'\]: not one of"),
        (changed(head="ordinal"), r"head 'ordinal': is for task 'age'; task 'mae' has the head 'value'"),
    ],
)
def test_bad_architectures_are_refused_with_the_reason(found: Any, message: str) -> None:
    with pytest.raises(Refused, match=message):
        Architecture.from_json(found)


BACKBONE = Backbone("timm:resnet18", "timm", 112, "age", 512, "ordinal").to_json()


def test_networks_of_other_families_come_back_from_json_too() -> None:
    for found in (BACKBONE, Backbone("faceage", "faceage", 160, "survival", 128, channels=0.5).to_json()):
        shape = architecture_from_json(json.loads(json.dumps(found)))
        assert isinstance(shape, Backbone) and shape.to_json() == found
    vit = Architecture.named("vit_tiny", task="age", head="gaussian")
    assert architecture_from_json(json.loads(json.dumps(vit.to_json()))) == vit


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ({"family": "tim"}, r"family 'tim': not one of faceage, timm\. Did you mean 'timm'\?"),
        ({"family": ["timm"]}, r"family \['timm'\]: not one of"),
        ({"family": "faceage"}, "name 'timm:resnet18': must be timm:NAME for the family timm, and without"),
        ({"name": 5}, "name 5: must be timm:NAME"),
        ({"size": 0}, "timm:resnet18: size 0: must be a whole number"),
        ({"width": 5.5}, r"timm:resnet18: width 5\.5: must be a whole number"),
        ({"task": "mae", "head": "value"}, "only a Vision Transformer can leave out"),
        ({"task": "survival"}, "head 'ordinal': is for task 'age'"),
        ({"channels": float("inf")}, "channels inf: must be a number above 0 and at most 8"),
        ({"channels": True}, "channels True: must be"),
        ({"patch": 8}, "unknown key 'patch'"),
    ],
)
def test_bad_networks_of_other_families_are_refused_with_the_reason(found: dict[str, Any], message: str) -> None:
    with pytest.raises(Refused, match=message):
        architecture_from_json({**BACKBONE, **found})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patch": 15}, r"patch 15: does not divide the size of 112 px\. .*\(such as 14\), or a size of 105 or 120 px"),
        ({"patch": 113}, r"patch 113: .*\(such as 112\), or a size of 113 or 226 px"),
        ({"patch": 2, "size": 1}, r"\(such as 1\), or a size of 2 or 4 px"),
        ({"patch": 0}, r"patch 0: must be a whole number"),
        ({"size": 112.0}, r"size 112\.0: must be a whole number"),
        ({"task": "ages"}, r"task 'ages': not one of mae, age, survival\. Did you mean 'age'\?"),
        ({"task": "age", "decoder": Decoder()}, r"takes no decoder"),
        ({"task": "age", "options": MaeOptions()}, r"task 'age': takes no masking options"),
    ],
)
def test_create_refuses_what_cannot_be_built(options: dict[str, Any], message: str) -> None:
    with pytest.raises(Refused, match=message):
        create("vit_base", **options)


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(Refused, match=r"model 'vit_bsae': not one of vit_tiny, .*Did you mean 'vit_base'\?"):
        create("vit_bsae")


def test_a_remedy_for_the_patch_works() -> None:
    for patch, size in ((14, 112), (15, 105), (15, 120), (112, 112), (113, 226), (1, 1), (2, 2)):
        assert Architecture.named("vit_tiny", patch=patch, size=size).grid >= 1
