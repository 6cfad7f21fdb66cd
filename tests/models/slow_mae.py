"""The masked autoencoder once more, slowly: loops in float64, written from the definition and shared with nothing.

Pictures are cut pixel by pixel, attention runs head by head and query by query, the whole picture is put back in order
before the decoder and the loss goes over all patches with the mask as weight. Gradients come from autograd in float64.
"""

import math

import torch
from torch import Tensor


def sincos(width: int, grid: int) -> Tensor:
    """(1 + grid * grid, width): row 0 is CLS. Science.md 3.1 entry by entry."""
    table = torch.zeros(1 + grid * grid, width, dtype=torch.float64)
    quarter = width // 4
    for row in range(grid):
        for column in range(grid):
            for k in range(quarter):
                frequency = 1.0 / math.pow(10000.0, k / quarter)
                entry = table[1 + row * grid + column]
                entry[k] = math.sin(column * frequency)
                entry[quarter + k] = math.cos(column * frequency)
                entry[2 * quarter + k] = math.sin(row * frequency)
                entry[3 * quarter + k] = math.cos(row * frequency)
    return table


def patch_pixels(image: Tensor, patch: int) -> list[Tensor]:
    """(3, S, S) -> for each patch, row by row, its values in the order row, column, channel."""
    found = []
    for top in range(0, image.shape[1], patch):
        for left in range(0, image.shape[2], patch):
            values = [
                image[channel, top + y, left + x] for y in range(patch) for x in range(patch) for channel in range(3)
            ]
            found.append(torch.stack(values))
    return found


def layer_norm(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    centred = x - x.sum(-1, keepdim=True) / x.shape[-1]
    variance = (centred * centred).sum(-1, keepdim=True) / x.shape[-1]
    return centred / torch.sqrt(variance + 1e-6) * scale + shift


def attend(x: Tensor, weights: dict[str, Tensor], name: str, heads: int) -> Tensor:
    """(tokens, width) -> (tokens, width)"""
    width = x.shape[1]
    size = width // heads
    stacked = x @ weights[f"{name}.qkv.weight"].T + weights[f"{name}.qkv.bias"]
    outputs = []
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        queries, keys, values = (stacked[:, kind * width : (kind + 1) * width][:, part] for kind in range(3))
        rows = []
        for query in queries:
            scores = torch.stack([(query * key).sum() for key in keys]) / math.sqrt(size)
            shares = torch.exp(scores - scores.max())
            shares = shares / shares.sum()
            rows.append(sum(share * value for share, value in zip(shares, values, strict=True)))
        outputs.append(torch.stack(rows))
    return torch.cat(outputs, 1) @ weights[f"{name}.proj.weight"].T + weights[f"{name}.proj.bias"]


def blocks(x: Tensor, weights: dict[str, Tensor], name: str, heads: int) -> Tensor:
    depth = len({key.split(".")[2] for key in weights if key.startswith(f"{name}.blocks.")})
    for number in range(depth):
        at = f"{name}.blocks.{number}"
        normed = layer_norm(x, weights[f"{at}.norm1.weight"], weights[f"{at}.norm1.bias"])
        x = x + attend(normed, weights, f"{at}.attn", heads)
        normed = layer_norm(x, weights[f"{at}.norm2.weight"], weights[f"{at}.norm2.bias"])
        hidden = normed @ weights[f"{at}.mlp.fc1.weight"].T + weights[f"{at}.mlp.fc1.bias"]
        hidden = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
        x = x + hidden @ weights[f"{at}.mlp.fc2.weight"].T + weights[f"{at}.mlp.fc2.bias"]
    return layer_norm(x, weights[f"{name}.norm.weight"], weights[f"{name}.norm.bias"])


def slow_loss(
    weights: dict[str, Tensor],  # float64
    images: Tensor,  # (B, 3, S, S) float64
    keep: list[list[int]],  # of each image the visible patches
    decoded: list[list[int]],  # of each image the patches whose prediction counts
    patch: int,
    heads: tuple[int, int],  # of encoder and decoder
    norm_pix: bool,
    places: tuple[Tensor, Tensor] | None = None,  # positions of encoder and decoder, (1 + N, width), if not sincos
) -> Tensor:
    total, counted = torch.zeros((), dtype=torch.float64), 0
    grid = images.shape[2] // patch
    width, decoder_width = weights["encoder.cls_token"].shape[2], weights["decoder.mask_token"].shape[2]
    at, decoder_at = places or (sincos(width, grid), sincos(decoder_width, grid))
    kernel = weights["encoder.patch_embed.proj.weight"]
    for image, visible, wanted in zip(images, keep, decoded, strict=True):
        tokens = [weights["encoder.cls_token"][0, 0] + at[0]]
        for number in visible:
            top, left = patch * (number // grid), patch * (number % grid)
            square = image[:, top : top + patch, left : left + patch]
            projected = (kernel * square[None]).sum((1, 2, 3)) + weights["encoder.patch_embed.proj.bias"]
            tokens.append(projected + at[1 + number])
        encoded = blocks(torch.stack(tokens), weights, "encoder", heads[0])
        embedded = encoded @ weights["decoder.embed.weight"].T + weights["decoder.embed.bias"]

        shown = [number for number in range(grid * grid) if number in visible or number in wanted]
        tokens = [embedded[0] + decoder_at[0]]
        for number in shown:
            token = embedded[1 + visible.index(number)] if number in visible else weights["decoder.mask_token"][0, 0]
            tokens.append(token + decoder_at[1 + number])
        painted = blocks(torch.stack(tokens), weights, "decoder", heads[1])
        painted = painted @ weights["decoder.predict.weight"].T + weights["decoder.predict.bias"]

        truth = patch_pixels(image, patch)
        for place, number in enumerate(shown):
            if number in wanted:
                target = truth[number]
                if norm_pix:
                    count = len(target)
                    mean = target.sum() / count
                    variance = ((target - mean) ** 2).sum() / (count - 1)
                    target = (target - mean) / torch.sqrt(variance + 1e-6)
                total = total + ((painted[1 + place] - target) ** 2).sum() / len(target)
                counted += 1
    return total / counted
