"""Augmentation of whole batches on the device, with random numbers from its default generator."""
from functools import lru_cache
import math

import torch
import torch.nn.functional as F

from data import MEAN, STD


@lru_cache
def channels(values, device):
    """A constant per channel, copied to the device only once since a copy waits for all that runs there."""
    return torch.tensor(values, device=device).view(1, 3, 1, 1)


def uniform(n, low, high, device):
    return torch.rand(n, 1, 1, 1, device=device) * (high - low) + low


def sometimes(x, y, p):
    """y for a share p of the samples, x for the others."""
    return torch.where(torch.rand(len(x), 1, 1, 1, device=x.device) < p, y, x)


def colour(x):
    """Brightness, contrast, saturation, colour cast, sharpness, and rarely grey or solarised; x (B, 3, H, W) in 0..1."""
    n, d = len(x), x.device
    grey = (x * channels((0.299, 0.587, 0.114), d)).sum(1, keepdim=True)
    x = torch.lerp(grey, x, uniform(n, 0.5, 1.5, d) * (torch.rand(n, 1, 1, 1, device=d) >= 0.05))
    mean = grey.mean((2, 3), keepdim=True)
    x = torch.lerp(mean, x, uniform(n, 0.6, 1.4, d))
    x = x * uniform(n, 0.65, 1.35, d) * (1 + 0.06 * torch.randn(n, 3, 1, 1, device=d))
    x = x.clamp(0, 1)
    blurred = F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
    x = sometimes(x, torch.lerp(blurred, x, uniform(n, 0.0, 2.0, d)).clamp(0, 1), 0.3)
    return sometimes(x, torch.where(x < uniform(n, 0.4, 1, d), x, 1 - x), 0.05)


def geometry(x, size, smallest):
    """Random resized crop (area from `smallest` to 1, ratio 3/4 to 4/3), flip, and for half of the samples a rotation
    by up to 15 degrees and a shear, in one bicubic resampling to size x size; what lies outside is 0."""
    n, d = len(x), x.device
    area = torch.rand(n, device=d) * (1 - smallest) + smallest
    ratio = torch.exp((torch.rand(n, device=d) * 2 - 1) * math.log(4 / 3))
    w, h = (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)
    cx, cy = ((torch.rand(n, device=d) * 2 - 1) * (1 - s) for s in (w, h))
    flip = torch.where(torch.rand(n, device=d) < 0.5, -1.0, 1.0)
    some = torch.rand(n, device=d) < 0.5
    angle = (torch.rand(n, device=d) * 2 - 1) * (math.pi / 12) * some
    shear = (torch.rand(n, device=d) * 2 - 1) * 0.2 * some
    cos, sin = angle.cos(), angle.sin()
    theta = torch.stack([w * flip * cos, w * (shear * cos - sin), cx,
                         h * flip * sin, h * (shear * sin + cos), cy], 1).view(n, 2, 3)
    grid = F.affine_grid(theta, (n, 3, size, size), align_corners=False)
    return F.grid_sample(x, grid, mode="bicubic", padding_mode="zeros", align_corners=False)


def mix(x, y, p):
    """CutMix for half of a share p of the samples and mixup (Beta(1/2, 1/2)) for the other half; the partner of a sample
    is its mirror in the batch. y (B, classes) are soft targets."""
    n, _, h, w = x.shape
    d = x.device
    u = torch.rand(n, device=d)
    lam = torch.sin(torch.rand(n, device=d) * (math.pi / 2)) ** 2
    side = torch.rand(n, device=d).sqrt()  # 1 - area is uniform
    cy, cx = torch.rand(2, n, 1, device=d)
    rows, columns = ((torch.arange(s, device=d) + 0.5) / s for s in (h, w))
    inside = ((rows - cy).abs() < side[:, None] / 2)[:, :, None] & ((columns - cx).abs() < side[:, None] / 2)[:, None, :]
    inside &= (u < p / 2)[:, None, None]
    lam = torch.where(u < p / 2, 1 - inside.float().mean((1, 2)), torch.where(u < p, lam, 1.0))
    blend = torch.where(u < p / 2, 1.0, lam).view(n, 1, 1, 1)  # of the pixels that are not cut
    x = torch.where(inside[:, None], x.flip(0), torch.lerp(x.flip(0), x, blend))
    return x, torch.lerp(y.flip(0), y, lam[:, None])


def batch(images, classes, num_classes, size, smallest, p_mix, smoothing):
    """uint8 (B, H, W, 3) and classes (B) -> normalised (B, 3, size, size) and soft targets (B, num_classes)."""
    d = images.device
    x = colour(images.permute(0, 3, 1, 2).float() / 255)
    x = geometry((x - channels(MEAN, d)) / channels(STD, d), size, smallest)
    y = F.one_hot(classes, num_classes).float() * (1 - smoothing) + smoothing / num_classes
    return mix(x, y, p_mix)
