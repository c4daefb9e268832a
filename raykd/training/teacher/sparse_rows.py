"""The layout of a logit cache's rows: the logits of all classes, or the top k logits and the sum of the others.

    dense     C logits, float16
    sparse    k logits, float16 | their classes, uint16 | log of the sum of exp over all other classes, float16

A sparse row has 2k + 1 words of 16 bits: 66 bytes with k = 16, where 1,000 logits take 2,000. `restore` returns all C
logits again. Each class that was not kept has the same one, so that the others together keep their probability:

    z_c = rest - log(C - k),   rest = log sum over the others of exp(z)

This is the "marginal smoothing" of Shen and Xing 2022 (FKD, arXiv:2112.01528), which Wu et al. 2022 (TinyViT,
arXiv:2207.10666) use too: the probability that the kept classes leave is spread evenly over the others. Both store
probabilities at one temperature. Logits serve every temperature: at temperature 1 the probabilities of the kept classes
are the teacher's, to float16's rounding. At a higher temperature, classes with equal logits together get more
probability than different ones (by Jensen's inequality), and the kept classes get less. `error_sums` measures this.

Behind either kind of logits, a row may hold the pooled embedding, D words of float16.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from math import log

import torch
import torch.nn.functional as F
from torch import Tensor

from raykd.methods.precision import at_least_float32
from raykd.outputs import Outputs

_CLASS_MASK = 0xFFFF  # int16 holds the bits of a uint16, with which torch has few operations


@dataclass(frozen=True)
class RowLayout:
    """The 16-bit words of one view: logits of all C classes or of the top `kept`, then D of the embedding.

    num_classes: C, 0 without logits. embedding_width: D, 0 without. kept: k < C, or None for all classes.
    """

    num_classes: int
    embedding_width: int = 0
    kept: int | None = None

    @property
    def logit_words(self) -> int:
        return self.num_classes if self.kept is None else 2 * self.kept + 1

    @property
    def width(self) -> int:
        """Words per view."""
        return self.logit_words + self.embedding_width

    @property
    def dtype(self) -> torch.dtype:
        """float16, or int16 for the words of sparse rows."""
        return torch.float16 if self.kept is None else torch.int16

    def encode(self, outputs: Outputs) -> Tensor:
        """Return the rows [B, width] of a teacher's outputs, on their device."""
        logits = outputs.logits.to(torch.float16) if self.kept is None else encode(outputs.logits, self.kept)
        if not self.embedding_width:
            return logits
        assert outputs.embedding is not None
        return torch.cat([logits, outputs.embedding.to(torch.float16).view(self.dtype)], dim=1)

    def decode(self, rows: Tensor) -> Outputs:
        """Return the outputs in rows [B, width], float32."""
        if self.kept is None:
            rows = rows.float()  # both parts in one kernel
        logits, embedding = rows.tensor_split([self.logit_words], dim=1)
        if self.kept is not None:
            logits, embedding = restore(logits, self.num_classes), embedding.view(torch.float16).float()
        return Outputs(logits, embedding if self.embedding_width else None)

    def values(self, rows: Tensor) -> Tensor:
        """Return the words of rows [..., width] that are numbers and not classes, float16."""
        if self.kept is None:
            return rows
        return torch.cat([rows[..., : self.kept], rows[..., 2 * self.kept :]], dim=-1).view(torch.float16)


def encode(logits: Tensor, kept: int) -> Tensor:
    """Return the sparse rows of logits [B, C], 1 <= kept < C <= 65,536: int16 [B, 2 kept + 1]."""
    logits = at_least_float32(logits)
    top, classes = logits.topk(kept, dim=1)
    rest = logits.scatter(1, classes, float("-inf")).logsumexp(1, keepdim=True)
    top_words, rest_word = (numbers.to(torch.float16).view(torch.int16) for numbers in (top, rest))
    return torch.cat([top_words, classes.to(torch.int32).to(torch.int16), rest_word], dim=1)


def restore(words: Tensor, num_classes: int) -> Tensor:
    """Return the logits [B, C] of sparse rows, int16 [B, 2k + 1]; float32, on their device."""
    kept = words.shape[1] // 2
    top, rest = (part.view(torch.float16).float() for part in (words[:, :kept], words[:, 2 * kept :]))
    classes = words[:, kept : 2 * kept].long() & _CLASS_MASK
    others = rest - log(num_classes - kept)
    return others.expand(-1, num_classes).scatter(1, classes, top)


def error_sums(logits: Tensor, restored: Tensor, kept: int, temperatures: Iterable[float]) -> Tensor:
    """Return sums over B views, float64 [1 + number of temperatures]: the error of `restored` relative to `logits`.

    First the probability of the kept classes, then KL(teacher || restored) in nats at each temperature. Both logits
    are [B, C].
    """
    teacher, restored = at_least_float32(logits), at_least_float32(restored)
    sums = [teacher.softmax(1).topk(kept, dim=1).values.sum()]
    for temperature in temperatures:
        log_restored, log_teacher = (logits.div(temperature).log_softmax(1) for logits in (restored, teacher))
        sums.append(F.kl_div(log_restored, log_teacher, reduction="sum", log_target=True).clamp_min(0))
    return torch.stack(sums).double()
