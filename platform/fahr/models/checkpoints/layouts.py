"""Other projects' names for the same weights -> ours. Nothing is guessed: a name that is not known is refused.

Known are timm's VisionTransformer, the reference MAE (timm's names and `decoder_*`), Transformers' ViT and ViTMAE (the
authors' FAHR-Face), CLIP's image encoder (FaRL), each plain or wrapped, and one linear layer on CLS beside it.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fahr.errors import Refused
from fahr.models.architecture import SIZES, Decoder
from fahr.models.checkpoints import clip
from fahr.models.checkpoints.interpolate import table_grid

# What wrappers put in front: DataParallel, Lightning, and the attribute that a network is kept under.
WRAPPERS = ("module", "model", "backbone", "encoder", "vit", "net")
_EPS, _EPS_TRANSFORMERS = 1e-6, 1e-12  # of LayerNorm in timm and the reference MAE; in Transformers' ViT and ViTMAE
HEADS = ("head", "regressor", "fc", "classifier")

# Of a block, the same in encoder and decoder. q, k and v become one matrix later.
_BLOCK = [
    (r"(norm[12]|attn\.qkv|attn\.proj|mlp\.fc[12])\.(weight|bias)", r"\1.\2"),
    (r"attention\.attention\.(query|key|value)\.(weight|bias)", r"attn.\1.\2"),
    (r"attention\.output\.dense\.(weight|bias)", r"attn.proj.\1"),
    (r"intermediate\.dense\.(weight|bias)", r"mlp.fc1.\1"),
    (r"output\.dense\.(weight|bias)", r"mlp.fc2.\1"),
    (r"layernorm_before\.(weight|bias)", r"norm1.\1"),
    (r"layernorm_after\.(weight|bias)", r"norm2.\1"),
]
_STACKS = [
    (r"(?:blocks|encoder\.layer)\.(\d+)\.", "encoder.blocks."),
    (r"(?:decoder_blocks|decoder\.decoder_layers)\.(\d+)\.", "decoder.blocks."),
]
_SINGLE = [
    (r"(cls_token|pos_embed)", r"encoder.\1"),
    (r"patch_embed\.proj\.(weight|bias)", r"encoder.patch_embed.proj.\1"),
    (r"(?:norm|layernorm)\.(weight|bias)", r"encoder.norm.\1"),
    (r"embeddings\.cls_token", "encoder.cls_token"),
    (r"embeddings\.position_embeddings", "encoder.pos_embed"),
    (r"embeddings\.patch_embeddings\.projection\.(weight|bias)", r"encoder.patch_embed.proj.\1"),
    (r"(?:decoder\.)?decoder_embed\.(weight|bias)", r"decoder.embed.\1"),
    (r"(?:decoder\.)?mask_token", "decoder.mask_token"),
    (r"(?:decoder\.)?decoder_pos_embed", "decoder.pos_embed"),
    (r"(?:decoder\.)?decoder_norm\.(weight|bias)", r"decoder.norm.\1"),
    (r"(?:decoder\.)?decoder_pred\.(weight|bias)", r"decoder.predict.\1"),
]
# Left out without harm, where the encoder alone is wanted: another use of it that no part of ours stands on.
_DROPPED = re.compile(r"(fc_norm|pooler\.dense|head|regressor|fc|classifier)\.(weight|bias)|embeddings\.mask_token")
# A head on these reads something else than CLS after the last norm.
_UNDER_HEAD = re.compile(r"(fc_norm|pooler\.dense)\.(weight|bias)|(visual\.)?proj")


@dataclass(frozen=True)
class Contents:
    """A file's tensors as `encoder.*`, `decoder.*` and `head.*`, and what only the layout tells."""

    tensors: dict[str, Tensor]
    layer_norm_eps: float
    activation: str
    assumed: tuple[str, ...] = ()  # what another project under the same names has otherwise


@dataclass(frozen=True)
class Shape:
    """Of an encoder and, where there is one, its decoder."""

    name: str
    width: int
    depth: int
    num_heads: int
    patch: int
    size: int
    mlp_ratio: float
    decoder: Decoder | None
    pre_norm: bool
    activation: str


def ours(found: Mapping[str, Tensor], place: str, *, encoder_only: bool = False) -> Contents:
    """The same tensors by our names. Refused: names that are not known."""
    stripped = _unwrapped(found, place)
    tower = clip.tower(stripped)
    renamed, dropped = (tower.renamed, tower.dropped) if tower else (_renamed, _dropped)
    heads = sorted(
        name.removesuffix(".weight")
        for name, tensor in stripped.items()
        if name in {f"{head}.weight" for head in HEADS} and tensor.ndim == 2 and len(tensor) == 1
    )
    if len(heads) > 1:
        raise Refused(f"{place}: has several heads of one output: {', '.join(heads)}. Keep the one that is meant.")
    named: dict[str, Tensor] = {}
    left, under_head = [], []
    for name, tensor in stripped.items():
        if heads and name in (f"{heads[0]}.weight", f"{heads[0]}.bias"):
            named[f"head.{name.rpartition('.')[2]}"] = tensor
        elif new := renamed(name):
            if new in named:
                raise Refused(f"{place}: two of its tensors are {new}. Keep one network in the file.")
            named[new] = tensor
        elif not dropped(name):
            left.append(name)
        elif _UNDER_HEAD.fullmatch(name):
            under_head.append(name)
    if left:
        _refuse_left(left, named, place)
    if encoder_only:
        named = {name: tensor for name, tensor in named.items() if name.startswith("encoder.")}
    elif heads and under_head:
        raise Refused(
            f"{place}: its head {heads[0]!r} seems to stand on {_module(under_head[0])}, ours on CLS after "
            "the last norm: the same weights would give other numbers. Take the encoder alone (fresh_head=True); or, "
            "if the head does read CLS, remove those tensors from the file."
        )
    if tower:
        return Contents(clip.adapted(named), clip.EPS, clip.ACTIVATION, ("activation",))
    return Contents(_joined(named), _EPS_TRANSFORMERS if "embeddings.cls_token" in stripped else _EPS, "gelu")


def _module(name: str) -> str:
    return re.sub(r"\.(weight|bias)$", "", name)


def _refuse_left(left: list[str], named: Mapping[str, Tensor], place: str) -> None:
    some = ", ".join(left[:5]) + (f" and {len(left) - 5} more" if len(left) > 5 else "")
    if not any(name.startswith("encoder.") for name in named):
        raise Refused(
            f"{place}: holds no Vision Transformer that we know; its tensors are {some}. Known are the names of timm, "
            "the reference MAE, Transformers' ViT and ViTMAE, and CLIP."
        )
    raise Refused(
        f"{place}: holds tensors that our encoder has no place for: {some}. Left out, it would compute something else. "
        f"If they are no part of the network, remove them; an age head must be one of {', '.join(HEADS)}, 1 x width."
    )


def _unwrapped(found: Mapping[str, Tensor], place: str) -> dict[str, Tensor]:
    """Without the wrappers' names in front. Two tensors that would then have one name are refused."""
    done: dict[str, Tensor] = {}
    before: dict[str, str] = {}
    for name, tensor in found.items():
        words = name.split(".")
        while words[0] in WRAPPERS and words[1:2] != ["layer"] and len(words) > 1:
            words = words[1:]
        short = ".".join(words)
        if short in done:
            raise Refused(
                f"{place}: {before[short]} and {name} would both be {short}: two networks in one file. Keep one."
            )
        done[short], before[short] = tensor, name
    return done


def _renamed(name: str) -> str | None:
    for pattern, prefix in _STACKS:
        if stack := re.match(pattern, name):
            inner = _first(_BLOCK, name[stack.end() :])
            return f"{prefix}{stack[1]}.{inner}" if inner else None
    return _first(_SINGLE, name)


def _dropped(name: str) -> bool:
    return bool(_DROPPED.fullmatch(name))


def _first(table: list[tuple[str, str]], name: str) -> str | None:
    for pattern, new in table:
        if match := re.fullmatch(pattern, name):
            return match.expand(new)
    return None


def _joined(named: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """query, key and value as the one matrix that timm's attention has, in this order."""
    done = {name: tensor for name, tensor in named.items() if not re.search(r"\.attn\.(query|key|value)\.", name)}
    for name, query in named.items():
        if ".attn.query." in name:
            parts = [query, *(named.get(name.replace(".query.", f".{kind}.")) for kind in ("key", "value"))]
            whole = [part for part in parts if part is not None]
            if len(whole) == 3:  # else qkv is missing, which is refused by its name
                done[name.replace(".query.", ".qkv.")] = torch.cat(whole)
    return done


# --- shapes ---


def shape_of(
    named: Mapping[str, Tensor],
    place: str,
    num_heads: int | None = None,
    decoder_heads: int | None = None,
    activation: str = "gelu",
) -> Shape:
    """Read off the weights; heads can't be, so they are width / 64, in a decoder width / 32, as in all named sizes."""
    embedding, table = _need(named, "encoder.patch_embed.proj.weight", place), _need(named, "encoder.pos_embed", place)
    if embedding.ndim != 4 or embedding.shape[1] != 3 or embedding.shape[2] != embedding.shape[3]:
        raise Refused(
            f"{place}: its patch embedding is {tuple(embedding.shape)}; (width, 3, patch, patch) is needed: square "
            "patches of colour images. Choose another checkpoint."
        )
    width, patch = int(embedding.shape[0]), int(embedding.shape[2])
    grid = table_grid(table.shape[1]) if table.ndim == 3 else None
    if grid is None:
        raise Refused(
            f"{place}: its positions are {tuple(table.shape)}; (1, 1 + G * G, width) is needed: CLS, then a square "
            "grid. Models without CLS, with registers or for oblong images are not ours."
        )
    heads = num_heads or _heads(width, 64, "num_heads", place)
    depth = _depth(named, "encoder", place)
    hidden = len(_need(named, "encoder.blocks.0.mlp.fc1.weight", place))
    standard = (width, depth, heads)
    name = next((each for each, size in SIZES.items() if size == standard), f"vit_{width}x{depth}x{heads}")
    decoder = None
    if any(each.startswith("decoder.") for each in named):
        narrow = len(_need(named, "decoder.embed.weight", place))
        decoder = Decoder(
            narrow, _depth(named, "decoder", place), decoder_heads or _heads(narrow, 32, "decoder_heads", place)
        )
    pre_norm = any(each.startswith("encoder.norm_pre.") for each in named)
    return Shape(name, *standard, patch, grid * patch, hidden / width, decoder, pre_norm, activation)


def _need(named: Mapping[str, Tensor], name: str, place: str) -> Tensor:
    if name not in named or named[name].ndim == 0:
        raise Refused(f"{place}: lacks {name} (in our names). Give a file that holds the whole encoder.")
    return named[name]


def _depth(named: Mapping[str, Tensor], part: str, place: str) -> int:
    numbers = sorted({int(name.split(".")[2]) for name in named if name.startswith(f"{part}.blocks.")})
    if not numbers or numbers != list(range(len(numbers))):
        raise Refused(
            f"{place}: its {part} has the blocks {numbers}; all from 0 up are needed. Give a file that holds the whole "
            f"{part}."
        )
    return len(numbers)


def _heads(width: int, each: int, option: str, place: str) -> int:
    if width % each:
        raise Refused(f"{place}: a width of {width} does not tell the number of heads (width / {each}). Give {option}.")
    return width // each
