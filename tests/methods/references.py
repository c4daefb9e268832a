"""Every method's loss by its authors' formula, in plain float64 torch, independent of raykd's code.

Arguments are student and teacher (and labels), the result is []; gradients are autograd's. Epsilons are those of the
authors' code, or of RepDistiller, to which some authors contributed theirs.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def kd(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    log_s, p_t = (student / temperature).log_softmax(1), (teacher / temperature).softmax(1)
    log_t = (teacher / temperature).log_softmax(1)
    return temperature**2 * (p_t * (log_t - log_s)).sum(1).mean()


def hard_labels(student: Tensor, teacher: Tensor) -> Tensor:
    rows = torch.arange(len(student))
    return (student.logsumexp(1) - student[rows, teacher.argmax(1)]).mean()


def dkd(student: Tensor, teacher: Tensor, labels: Tensor, alpha: float, beta: float, temperature: float) -> Tensor:
    """Subtract 1000 from the label's logit and add the probabilities of the other classes, like mdistiller."""
    is_label = F.one_hot(labels, student.shape[1]).to(student.dtype)

    def pair(logits: Tensor) -> Tensor:
        p = (logits / temperature).softmax(1)
        return torch.stack([(p * is_label).sum(1), (p * (1 - is_label)).sum(1)], dim=1)

    pair_s, pair_t = pair(student), pair(teacher)
    target = (pair_t * (pair_t.log() - pair_s.log())).sum(1).mean()
    others_s, others_t = (logits / temperature - 1000 * is_label for logits in (student, teacher))
    q_t = others_t.softmax(1)
    rest = torch.where(q_t > 0, q_t * (others_t.log_softmax(1) - others_s.log_softmax(1)), 0.0).sum(1).mean()
    return temperature**2 * (alpha * target + beta * rest)


def dist(student: Tensor, teacher: Tensor, beta: float, gamma: float, temperature: float) -> Tensor:
    p_s, p_t = ((logits / temperature).softmax(1) for logits in (student, teacher))

    def relation(x: Tensor, y: Tensor) -> Tensor:
        x, y = x - x.mean(1, keepdim=True), y - y.mean(1, keepdim=True)
        return 1 - ((x * y).sum(1) / (x.norm(dim=1) * y.norm(dim=1) + 1e-8)).mean()

    return temperature**2 * (beta * relation(p_s, p_t) + gamma * relation(p_s.T, p_t.T))


def standardized(logits: Tensor) -> Tensor:
    return (logits - logits.mean(1, keepdim=True)) / (logits.std(1, keepdim=True) + 1e-7)


def attention_transfer(student: Tensor, teacher: Tensor) -> Tensor:
    a_s, a_t = (F.normalize((maps**2).mean(1).flatten(1)) for maps in (student, teacher))
    return ((a_s - a_t) ** 2).mean()


def similarity_preserving(student: Tensor, teacher: Tensor) -> Tensor:
    g_s, g_t = (F.normalize(maps.flatten(1) @ maps.flatten(1).T) for maps in (student, teacher))
    return ((g_s - g_t) ** 2).sum() / len(student) ** 2


def rkd_distance(student: Tensor, teacher: Tensor) -> Tensor:
    def distances(vectors: Tensor) -> Tensor:
        squares = (vectors[:, None] - vectors[None]).square().sum(2).clamp(min=1e-12)
        lengths = squares.sqrt() * (1 - torch.eye(len(vectors), dtype=vectors.dtype))
        return lengths / lengths[lengths > 0].mean()

    return F.smooth_l1_loss(distances(student), distances(teacher))


def rkd_angle(student: Tensor, teacher: Tensor) -> Tensor:
    def cosines(vectors: Tensor) -> Tensor:
        sides = vectors[None] - vectors[:, None]
        unit = F.normalize(sides, dim=2)
        return torch.einsum("ijd,ikd->ijk", unit, unit)

    return F.smooth_l1_loss(cosines(student), cosines(teacher))


def pkt(student: Tensor, teacher: Tensor) -> Tensor:
    def neighbors(vectors: Tensor) -> Tensor:
        unit = vectors / (vectors.norm(dim=1, keepdim=True) + 1e-7)
        similarity = (unit @ unit.T + 1) / 2
        return similarity / similarity.sum(1, keepdim=True)

    s, t = neighbors(student), neighbors(teacher)
    return (t * ((t + 1e-7) / (s + 1e-7)).log()).mean()


def nst(student: Tensor, teacher: Tensor) -> Tensor:
    f_s, f_t = (F.normalize(maps.flatten(2), dim=2) for maps in (student, teacher))

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return torch.einsum("bip,bjp->bij", a, b).square().mean()

    return kernel(f_t, f_t) + kernel(f_s, f_s) - 2 * kernel(f_s, f_t)


def correlation_congruence(student: Tensor, teacher: Tensor) -> Tensor:
    difference = (student - teacher).abs()
    return torch.stack([difference[i] @ difference[i + 1] for i in range(len(difference) - 1)]).mean()


def vid(mean: Tensor, variance: Tensor, teacher: Tensor) -> Tensor:
    spread = variance.view(1, -1, 1, 1)
    return (0.5 * ((mean - teacher) ** 2 / spread + spread.log())).mean()


def hcl(student: Tensor, teacher: Tensor) -> Tensor:
    """Return ReviewKD's loss of one level, which pools both maps as the authors' code does."""
    total, weight, weights = ((student - teacher) ** 2).mean(), 1.0, 1.0
    for size in (4, 2, 1):
        if size < student.shape[2]:
            weight /= 2
            ours, theirs = (F.adaptive_avg_pool2d(maps, size) for maps in (student, teacher))
            total, weights = total + weight * ((ours - theirs) ** 2).mean(), weights + weight
    return total / weights


def crd(scores: Tensor, num_images: int) -> Tensor:
    """Return RepDistiller's ContrastLoss of log P [2, B, 1 + K], summed over both directions."""
    p, noise = scores.exp(), (scores.shape[2] - 1) / num_images
    positive = (p[:, :, 0] / (p[:, :, 0] + noise + 1e-7)).log()
    negative = (noise / (p[:, :, 1:] + noise + 1e-7)).log()
    return -(positive.sum() + negative.sum()) / scores.shape[1]


def cosine(student: Tensor, teacher: Tensor) -> Tensor:
    lengths = student.norm(dim=1).clamp(min=1e-8) * teacher.norm(dim=1).clamp(min=1e-8)
    return 1 - ((student * teacher).sum(1) / lengths).mean()
