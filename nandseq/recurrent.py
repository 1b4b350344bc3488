"""PyTorch's GRU in fewer operations, for training on a CPU, where calling them takes most of a small network's time.

PyTorch differentiates a GRU (Cho et al. 2014, arXiv:1406.1078) operation by operation. Written out, a step back in time
is the gradient of the hidden state times factors that are known beforehand, and the gradients of the weights are one
matrix product each over all steps.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional


class FastGRU(nn.GRU):
    """`torch.nn.GRU`: its parameters and, up to rounding, its answers. On other devices than the CPU it is that one."""

    def forward(self, x: Tensor, memory: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Hidden states (B, T, H), or (T, B, H) without `batch_first`, of all steps, and the last ones.

        Args:
            x: (B, T, E) or (T, B, E).
            memory: (layers · directions, B, H) to begin with; None is zeros.
        """
        as_usual = x.ndim != 3 or x.device.type != "cpu" or x.dtype != self.weight_hh_l0.dtype or not self.bias
        if as_usual or torch.is_autocast_enabled("cpu"):
            return super().forward(x, memory)
        states, last, number = x.transpose(0, 1) if self.batch_first else x, [], 0
        for layer in range(self.num_layers):
            if layer and self.dropout:
                states = functional.dropout(states, self.dropout, self.training)
            ways = []
            for suffix in ("", "_reverse")[: 1 + self.bidirectional]:
                weights = [getattr(self, f"{name}_l{layer}{suffix}") for name in _WEIGHTS]
                first = x.new_zeros(states.shape[1], self.hidden_size) if memory is None else memory[number]
                way = _Layer.apply(states.flip(0) if suffix else states, first, *weights)
                last.append(way[-1])
                ways.append(way.flip(0) if suffix else way)
                number += 1
            states = torch.cat(ways, -1) if self.bidirectional else ways[0]
        return states.transpose(0, 1) if self.batch_first else states, torch.stack(last)


_WEIGHTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


class _Layer(torch.autograd.Function):
    """Hidden states (T, B, H) of one layer one way, from x (T, B, E) and a first state (B, H)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, first: Tensor, w_in: Tensor, w: Tensor, b_in: Tensor, b: Tensor) -> Tensor:
        x, size = x.contiguous(), first.shape[1]
        both = torch.cat([(b_in + b)[: 2 * size], b_in[2 * size :]])
        gates = torch.addmm(both, x.flatten(0, 1), w_in.T).unflatten(0, x.shape[:2])
        new = gates[..., 2 * size :].clone()  # what the input says of the candidate, then the candidate
        gates[..., 2 * size :] = b[2 * size :]  # here, beside reset and update, what the memory says of it
        states = x.new_empty(len(x) + 1, *first.shape)
        states[0] = first
        columns = (gates, gates[..., : 2 * size], *gates.split(size, -1), new, states[:-1], states[1:])
        for gate, opened, reset, update, memory, n, before, after in zip(*(each.unbind() for each in columns)):
            gate.addmm_(before, w.T)
            opened.sigmoid_()
            n.addcmul_(reset, memory).tanh_()
            torch.lerp(n, before, update, out=after)
        ctx.save_for_backward(x, gates, new, states, w_in, w)
        return states[1:]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, gates, new, states, w_in, w = ctx.saved_tensors
        reset, update, memory = gates.chunk(3, -1)
        # what the gradient of a step's state is to be multiplied with, for the candidate and for the parts of `gates`
        of_new = torch.addcmul(torch.ones_like(new), new, new, value=-1)
        of_new.addcmul_(of_new, update, value=-1)
        slopes = gates.new_empty(*new.shape[:2], 3, new.shape[2])
        of_reset, of_update, of_memory = slopes.unbind(2)
        torch.mul(of_new, reset, out=of_memory)
        torch.mul(of_memory, memory, out=of_reset)
        of_reset.addcmul_(of_reset, reset, value=-1)
        torch.sub(states[:-1], new, out=of_update).mul_(update)
        of_update.addcmul_(of_update, update, value=-1)
        total = torch.cat([torch.zeros_like(grad[:1]), grad])  # gradients of `states`, complete from the last one back
        columns = (total[:-1], total[1:], slopes, slopes.flatten(2), update)
        for before, here, slope, row, kept in reversed(list(zip(*(each.unbind() for each in columns)))):
            slope.mul_(here[:, None])
            before.addmm_(row, w).addcmul_(here, kept)
        rows = slopes.view(-1, len(w))
        of_w, of_b = rows.T @ states[:-1].flatten(0, 1), rows.sum(0)
        torch.mul(total[1:], of_new, out=of_memory)  # the input's part in the candidate is not gated
        of_x = (rows @ w_in).view_as(x) if ctx.needs_input_grad[0] else None
        return of_x, total[0], rows.T @ x.flatten(0, 1), of_w, rows.sum(0), of_b
