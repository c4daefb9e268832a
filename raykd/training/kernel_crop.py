"""Convolutions without the outer weights that meet only padding, for bfloat16 on a CPU.

If an image is smaller than a kernel, some of the kernel's weights are multiplied with padding at every position:

    kernel 3, stride 2, padding 1, image 1x1:  only the central weight of 3x3 meets the pixel

Their gradient is 0. With bfloat16 on a CPU, oneDNN instead returns uninitialized memory for it, which may be NaN
(torch 2.7 and 2.15). The outputs do not depend on these weights, so no loss shows it, but the norm of the gradient and
the saved weights do, and a resumed run would differ. A convolution with the other weights has the same outputs, and
autograd returns a gradient of 0 for what was left out.
"""

import torch.nn.functional as F
from torch import Tensor, nn


def crop_kernels(module: nn.Module) -> None:
    """Make each `nn.Conv2d` in `module` leave out the outer rows and columns of its kernel that meet only padding."""
    for part in module.modules():
        if type(part) is nn.Conv2d and part.padding_mode == "zeros":
            part.__class__ = _CroppedConv2d  # parameters, names and hooks stay


class _CroppedConv2d(nn.Conv2d):
    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        left, right, top, bottom = self._reversed_padding_repeated_twice
        (height, width), sizes = weight.shape[-2:], input.shape[-2:]
        first_row, last_row = _read(sizes[0], height, self.stride[0], self.dilation[0], top, bottom)
        first_column, last_column = _read(sizes[1], width, self.stride[1], self.dilation[1], left, right)
        cut = (first_column, width - 1 - last_column, first_row, height - 1 - last_row)
        if not any(cut):
            return super()._conv_forward(input, weight, bias)
        row, column = self.dilation
        padding = (left - cut[0] * column, right - cut[1] * column, top - cut[2] * row, bottom - cut[3] * row)
        kept = weight[..., first_row : last_row + 1, first_column : last_column + 1]
        return F.conv2d(F.pad(input, padding), kept, bias, self.stride, 0, self.dilation, self.groups)


def _read(size: int, kernel: int, stride: int, dilation: int, before: int, after: int) -> tuple[int, int]:
    """Return the first and the last position in the kernel that meets a pixel, along one side of the image.

    size, before, after: pixels of the image, and of padding on its two sides.
    """
    starts = range(-before, size + after - dilation * (kernel - 1), stride)
    read = [tap for tap in range(kernel) if any(0 <= start + tap * dilation < size for start in starts)]
    return (read[0], read[-1]) if read else (0, kernel - 1)
