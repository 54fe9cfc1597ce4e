"""The recurrence of linear attention with a forget gate, for every channel and key channel a gate of its own:

    S_i = exp(delta_i A) * S_(i-1) + k_i^T v_i,    y_i = q_i S_i        (arXiv 2405.16605, equation 12, without q_i Z_i)

A gate that differs along both sides of the state leaves no form by matrix products, so tokens are read one after
another: on a GPU by one Triton program for each image and head, which holds the state in registers. The backward pass
reads the states at the beginning of every CHUNK tokens, which the forward pass stored, and recomputes those between.

    python scan.py --check       compares values and gradients with the plain loop, on the GPU"""
import argparse

import torch
from torch import Tensor

try:
    import triton
    import triton.language as tl
except ImportError:
    triton = None

CHUNK = 16
WARPS = 2


def loop(q, k, v, delta, a):
    """The definition. q, k (B, L, H, N), v, delta (B, L, H, D), a (H, D, N) -> y (B, L, H, D)."""
    b, l, h, n = q.shape
    state = v.new_zeros(b, h, v.shape[-1], n)
    out = []
    for i in range(l):
        state = torch.exp(delta[:, i, :, :, None] * a) * state + v[:, i, :, :, None] * k[:, i, :, None]
        out.append((state * q[:, i, :, None]).sum(-1))
    return torch.stack(out, 1)


if triton is not None:
    @triton.jit
    def forward_kernel(q, k, v, delta, a, y, states, length, heads, N: tl.constexpr, D: tl.constexpr, C: tl.constexpr):
        p = tl.program_id(0)
        head = p % heads
        first = p // heads * length
        n, d = tl.arange(0, N), tl.arange(0, D)
        tile = d[:, None] * N + n[None, :]
        gate = tl.load(a + head * D * N + tile)
        s = tl.zeros((D, N), tl.float32)
        for c in range(length // C):
            tl.store(states + (p * (length // C) + c) * D * N + tile, s)
            for i in range(C):
                row = (first + c * C + i) * heads + head
                qi = tl.load(q + row * N + n).to(tl.float32)
                ki = tl.load(k + row * N + n).to(tl.float32)
                vi = tl.load(v + row * D + d).to(tl.float32)
                ti = tl.load(delta + row * D + d).to(tl.float32)
                s = tl.exp(ti[:, None] * gate) * s + vi[:, None] * ki[None, :]
                tl.store(y + row * D + d, tl.sum(s * qi[None, :], 1))

    @triton.jit
    def backward_kernel(q, k, v, delta, a, dy, states, scratch, dq, dk, dv, ddelta, da, length, heads,
                        N: tl.constexpr, D: tl.constexpr, C: tl.constexpr):
        p = tl.program_id(0)
        head = p % heads
        first = p // heads * length
        n, d = tl.arange(0, N), tl.arange(0, D)
        tile = d[:, None] * N + n[None, :]
        gate = tl.load(a + head * D * N + tile)
        ds = tl.zeros((D, N), tl.float32)
        sum_a = tl.zeros((D, N), tl.float32)
        chunks = length // C
        for back in range(chunks):
            c = chunks - 1 - back
            s = tl.load(states + (p * chunks + c) * D * N + tile)
            for i in range(C):
                row = (first + c * C + i) * heads + head
                ki = tl.load(k + row * N + n).to(tl.float32)
                vi = tl.load(v + row * D + d).to(tl.float32)
                ti = tl.load(delta + row * D + d).to(tl.float32)
                tl.store(scratch + (p * C + i) * D * N + tile, s)  # the state before token i
                s = tl.exp(ti[:, None] * gate) * s + vi[:, None] * ki[None, :]
            tl.debug_barrier()
            for j in range(C):
                i = C - 1 - j
                row = (first + c * C + i) * heads + head
                qi = tl.load(q + row * N + n).to(tl.float32)
                ki = tl.load(k + row * N + n).to(tl.float32)
                vi = tl.load(v + row * D + d).to(tl.float32)
                ti = tl.load(delta + row * D + d).to(tl.float32)
                dyi = tl.load(dy + row * D + d).to(tl.float32)
                before = tl.load(scratch + (p * C + i) * D * N + tile)
                kept = tl.exp(ti[:, None] * gate)
                tl.store(dq + row * N + n, tl.sum(dyi[:, None] * (kept * before + vi[:, None] * ki[None, :]), 0))
                ds += dyi[:, None] * qi[None, :]
                tl.store(dk + row * N + n, tl.sum(ds * vi[:, None], 0))
                tl.store(dv + row * D + d, tl.sum(ds * ki[None, :], 1))
                ds = ds * kept
                by_gate = ds * before
                tl.store(ddelta + row * D + d, tl.sum(by_gate * gate, 1))
                sum_a += by_gate * ti[:, None]
            tl.debug_barrier()
        tl.store(da + p * D * N + tile, sum_a)


    @torch.library.custom_op("mila::scan", mutates_args=())
    def kernel_scan(q: Tensor, k: Tensor, v: Tensor, delta: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
        """y, and the states before every CHUNK tokens."""
        q, k, v, delta, a = (t.contiguous() for t in (q, k, v, delta, a))
        (b, l, h, n), d = q.shape, v.shape[-1]
        y = torch.empty(b, l, h, d, device=q.device)
        states = torch.empty(b * h, l // CHUNK, d, n, device=q.device)
        forward_kernel[b * h,](q, k, v, delta, a, y, states, l, h, n, d, CHUNK, num_warps=WARPS)
        return y, states

    @kernel_scan.register_fake
    def _(q, k, v, delta, a):
        (b, l, h, n), d = q.shape, v.shape[-1]
        return delta.new_empty(b, l, h, d), delta.new_empty(b * h, l // CHUNK, d, n)

    @torch.library.custom_op("mila::scan_grad", mutates_args=())
    def kernel_grad(dy: Tensor, q: Tensor, k: Tensor, v: Tensor, delta: Tensor, a: Tensor,
                    states: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        dy, q, k, v, delta, a = (t.contiguous() for t in (dy, q, k, v, delta, a))
        (b, l, h, n), d = q.shape, v.shape[-1]
        grads = [torch.empty_like(t) for t in (q, k, v, delta)]
        da, scratch = torch.empty(b, *a.shape, device=q.device), torch.empty(b * h, CHUNK, d, n, device=q.device)
        backward_kernel[b * h,](q, k, v, delta, a, dy, states, scratch, *grads, da, l, h, n, d, CHUNK, num_warps=WARPS)
        return *grads, da.sum(0)

    @kernel_grad.register_fake
    def _(dy, q, k, v, delta, a, states):
        return tuple(t.new_empty(t.shape) for t in (q, k, v, delta, a))

    def _setup(ctx, inputs, output):
        ctx.save_for_backward(*inputs, output[1])

    def _backward(ctx, dy, _):
        return kernel_grad(dy, *ctx.saved_tensors)

    kernel_scan.register_autograd(_backward, setup_context=_setup)


def scan(q, k, v, delta, a):
    """See loop. On a GPU, delta and a must be float32; so are the state and y, whatever q, k and v are."""
    n, d, l = q.shape[-1], v.shape[-1], q.shape[1]
    if q.is_cuda and triton is not None and n & (n - 1) == 0 and d & (d - 1) == 0 and l % CHUNK == 0:
        return kernel_scan(q, k, v, delta, a)[0]
    return loop(q, k, v, delta, a)


def check(device, b=3, heads=(1, 2, 4), n=32, d=32):
    """Prints the largest differences from the loop in float64, of the largest value, and fails above 1e-4."""
    worst = 0.0
    for h, l in zip(heads, (256, 64, 16)):
        torch.manual_seed(h)
        args = [torch.rand(b, l, h, n) * 2, torch.rand(b, l, h, n) * 2, torch.randn(b, l, h, d),
                torch.rand(b, l, h, d) * 0.3, -torch.exp(torch.randn(h, d, n))]
        weight = torch.randn(b, l, h, d)
        results = []
        for dtype, f in (torch.float64, loop), (torch.float32, scan):
            leaves = [t.to(device, dtype).requires_grad_() for t in args]
            y = f(*leaves)
            results.append([y.detach(), *torch.autograd.grad((y * weight.to(device, dtype)).sum(), leaves)])
        errors = [((x - y).abs().max() / x.abs().max()).item() for x, y in zip(*results)]
        print(f"{h} heads, {l} tokens: " + ", ".join(f"{m} {e:.1e}" for m, e in zip("y dq dk dv ddelta da".split(), errors)), flush=True)
        worst = max([worst, *errors])
    if not worst < 1e-4:
        raise SystemExit(f"the scan differs from its definition by {worst:.1e}")


if __name__ == "__main__":
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--check", action="store_true", required=True)
    p.parse_args()
    check("cuda" if torch.cuda.is_available() else "cpu")
