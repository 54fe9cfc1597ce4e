"""Depthwise 3x3 convolutions on tokens (B, H W, C), padding 1, as Triton kernels.

They read the tokens as they lie, take the float32 master weights and can add their input (x + conv(x)), each of which
would otherwise be a pass over memory of its own; a sum over the batch is split in a fixed way, so results are the same
from run to run."""
import torch
import triton
import triton.language as tl
from torch import Tensor

CHANNELS = 64  # that one program computes; divides every C


@triton.jit
def _forward(x, weight, bias, y, n, ih, iw, oh, ow, c, stride: tl.constexpr, residual: tl.constexpr, R: tl.constexpr, C: tl.constexpr):
    rows = tl.program_id(0) * R + tl.arange(0, R)  # tokens of the result
    ch = tl.program_id(1) * C + tl.arange(0, C)
    row, col, first = rows // ow % oh * stride, rows % ow * stride, rows // (ow * oh) * (ih * iw)
    acc = tl.zeros((R, C), tl.float32) + tl.load(bias + ch)[None, :]
    for t in tl.static_range(9):
        i, j = row + (t // 3 - 1), col + (t % 3 - 1)
        inside = (rows < n) & (i >= 0) & (i < ih) & (j >= 0) & (j < iw)
        v = tl.load(x + (first + i * iw + j)[:, None] * c + ch[None, :], mask=inside[:, None], other=0).to(tl.float32)
        k = tl.load(weight + ch * 9 + t)
        if residual and t == 4:
            k += 1
        acc += v * k[None, :]
    tl.store(y + rows[:, None] * c + ch[None, :], acc, mask=(rows < n)[:, None])


@triton.jit
def _input_grad(g, weight, dx, n, ih, iw, oh, ow, c, stride: tl.constexpr, residual: tl.constexpr, R: tl.constexpr, C: tl.constexpr):
    rows = tl.program_id(0) * R + tl.arange(0, R)  # tokens of the input
    ch = tl.program_id(1) * C + tl.arange(0, C)
    row, col, first = rows // iw % ih, rows % iw, rows // (iw * ih) * (oh * ow)
    acc = tl.zeros((R, C), tl.float32)
    for t in tl.static_range(9):
        i, j = row - (t // 3 - 1), col - (t % 3 - 1)
        inside = (rows < n) & (i >= 0) & (i < oh * stride) & (j >= 0) & (j < ow * stride)
        if stride > 1:
            inside &= (i % stride == 0) & (j % stride == 0)
        v = tl.load(g + (first + i // stride * ow + j // stride)[:, None] * c + ch[None, :], mask=inside[:, None], other=0).to(tl.float32)
        k = tl.load(weight + ch * 9 + t)
        if residual and t == 4:
            k += 1
        acc += v * k[None, :]
    tl.store(dx + rows[:, None] * c + ch[None, :], acc, mask=(rows < n)[:, None])


@triton.jit
def _tap(x, gv, rows, row, col, first, ch, n, ih, iw, c, dy: tl.constexpr, dx: tl.constexpr):
    i, j = row + dy, col + dx
    inside = (rows < n) & (i >= 0) & (i < ih) & (j >= 0) & (j < iw)
    return gv * tl.load(x + (first + i * iw + j)[:, None] * c + ch[None, :], mask=inside[:, None], other=0).to(tl.float32)


@triton.jit
def _weight_grad(x, g, part, n, each, ih, iw, oh, ow, c, stride: tl.constexpr, R: tl.constexpr, C: tl.constexpr):
    """part (programs, 10, c): the sums over `each` tokens of the result, for nine taps and the bias."""
    ch = tl.program_id(1) * C + tl.arange(0, C)
    zero = tl.zeros((R, C), tl.float32)
    a0, a1, a2, a3, a4, a5, a6, a7, a8, b = zero, zero, zero, zero, zero, zero, zero, zero, zero, zero
    start = tl.program_id(0) * each
    for at in range(start, start + each, R):
        rows = at + tl.arange(0, R)
        row, col, first = rows // ow % oh * stride, rows % ow * stride, rows // (ow * oh) * (ih * iw)
        gv = tl.load(g + rows[:, None] * c + ch[None, :], mask=(rows < n)[:, None], other=0).to(tl.float32)
        b += gv
        a0 += _tap(x, gv, rows, row, col, first, ch, n, ih, iw, c, -1, -1)
        a1 += _tap(x, gv, rows, row, col, first, ch, n, ih, iw, c, -1, 0)
        a2 += _tap(x, gv, rows, row, col, first, ch, n, ih, iw, c, -1, 1)
        a3 += _tap(x, gv, rows, row, col, first, ch, n, ih, iw, c, 0, -1)
        a4 += _tap(x, gv, rows, row, col, first, ch, n, ih, iw, c, 0, 0)
        a5 += _tap(x, gv, rows, row, col, first, ch, n, ih, iw, c, 0, 1)
        a6 += _tap(x, gv, rows, row, col, first, ch, n, ih, iw, c, 1, -1)
        a7 += _tap(x, gv, rows, row, col, first, ch, n, ih, iw, c, 1, 0)
        a8 += _tap(x, gv, rows, row, col, first, ch, n, ih, iw, c, 1, 1)
    to = part + tl.program_id(0) * 10 * c + ch
    tl.store(to, tl.sum(a0, 0))
    tl.store(to + c, tl.sum(a1, 0))
    tl.store(to + 2 * c, tl.sum(a2, 0))
    tl.store(to + 3 * c, tl.sum(a3, 0))
    tl.store(to + 4 * c, tl.sum(a4, 0))
    tl.store(to + 5 * c, tl.sum(a5, 0))
    tl.store(to + 6 * c, tl.sum(a6, 0))
    tl.store(to + 7 * c, tl.sum(a7, 0))
    tl.store(to + 8 * c, tl.sum(a8, 0))
    tl.store(to + 9 * c, tl.sum(b, 0))


def out_size(h, w, stride):
    return (h - 1) // stride + 1, (w - 1) // stride + 1


@torch.library.custom_op("mila::depthwise", mutates_args=())
def conv(x: Tensor, weight: Tensor, bias: Tensor, h: int, w: int, stride: int, residual: bool) -> Tensor:
    x, weight = x.contiguous(), weight.contiguous()
    (b, _, c), (oh, ow) = x.shape, out_size(h, w, stride)
    y = x.new_empty(b, oh * ow, c)
    n = b * oh * ow
    _forward[triton.cdiv(n, 64), c // CHANNELS](x, weight, bias, y, n, h, w, oh, ow, c, stride, residual, 64, CHANNELS)
    return y


@conv.register_fake
def _(x, weight, bias, h, w, stride, residual):
    oh, ow = out_size(h, w, stride)
    return x.new_empty(x.shape[0], oh * ow, x.shape[2])


@torch.library.custom_op("mila::depthwise_grad", mutates_args=())
def conv_grad(g: Tensor, x: Tensor, weight: Tensor, h: int, w: int, stride: int, residual: bool) -> tuple[Tensor, Tensor, Tensor]:
    g, x, weight = g.contiguous(), x.contiguous(), weight.contiguous()
    (b, _, c), (oh, ow) = x.shape, out_size(h, w, stride)
    dx = torch.empty_like(x)
    _input_grad[triton.cdiv(b * h * w, 64), c // CHANNELS](g, weight, dx, b * h * w, h, w, oh, ow, c, stride, residual, 64, CHANNELS)
    n = b * oh * ow
    each = triton.cdiv(n, max(1, 2048 * CHANNELS // c) * 16) * 16  # about 2048 programs in all
    programs = triton.cdiv(n, each)
    part = torch.empty(programs, 10, c, device=x.device)
    _weight_grad[programs, c // CHANNELS](x, g, part, n, each, h, w, oh, ow, c, stride, 16, CHANNELS)
    s = part.sum(0)
    return dx, s[:9].t().reshape(weight.shape).contiguous(), s[9].clone()


@conv_grad.register_fake
def _(g, x, weight, h, w, stride, residual):
    return torch.empty_like(x), torch.empty_like(weight), weight.new_empty(x.shape[2])


def _setup(ctx, inputs, output):
    x, weight, _, *ctx.geometry = inputs
    ctx.save_for_backward(x, weight)


def _backward(ctx, g):
    x, weight = ctx.saved_tensors
    return *conv_grad(g, x, weight, *ctx.geometry), None, None, None, None


conv.register_autograd(_backward, setup_context=_setup)
