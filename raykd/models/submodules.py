"""Read the embedding and the feature maps of any network by the names of its submodules, with forward hooks.

A named submodule's output is read. Without a name, the embedding is the input of the linear layer that computes the
logits; `locate` finds it by running the network once on a black image. A submodule that runs several times counts
with its last run. Hooks are registered only for outputs that a method needs, so they cost nothing otherwise.

A network with the methods `forward_features` and `forward_head` of timm's networks needs no names: they return the
embedding, and `forward_intermediates` returns the feature maps.
"""

import copy
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from raykd.config.signature import signature_of
from raykd.errors import ConfigError, did_you_mean, errors_of
from raykd.models.model import ImageModel, ImageSpec, Model, has_shapes_only
from raykd.models.timm_model import feature_stages
from raykd.outputs import Outputs

NUM_LISTED = 12  # submodules in a message
PROBABILITY_TOLERANCE = 1e-4  # of a sum of float32 probabilities
Side = Literal["input", "output"]
Need = Literal["embedding", "features"]
_REQUIRED: dict[Need, str] = {
    "embedding": "an embedding is one vector for each image, [B, D] or [B, D, 1, 1]",
    "features": "a feature map is [B, K, H, W]",
}


@dataclass(frozen=True)
class SplitForward:
    """How to run a network whose `forward(x)` is `forward_head(forward_features(x))`.

    applies_head: whether the layer `head` of Submodules computes the logits from the embedding, which is
    `forward_head(..., pre_logits=True)`. stages: indices of the feature maps of `forward_intermediates`; () without it.
    """

    applies_head: bool
    stages: tuple[int, ...] = ()


@dataclass(frozen=True)
class Submodules:
    """Where to read outputs. embedding: a submodule's output, or '' for the input of the linear layer `head`.

    head: '' if the logits do not come from a linear layer. features: submodules whose outputs are [B, K, H, W].
    returns_embedding: whether the network itself returns the embedding, and no logits. split: None for a network
    without the methods of timm's; it is not used for what `embedding` and `features` name.
    returns_probabilities: whether the output for a black image is at least 0 and sums to 1, as after a softmax.
    """

    embedding: str = ""
    head: str = ""
    features: tuple[str, ...] = ()
    returns_embedding: bool = False
    split: SplitForward | None = None
    returns_probabilities: bool = False

    @property
    def embedding_at(self) -> "tuple[str, Side] | None":
        """The submodule whose output or input is the embedding; None if no submodule's is read."""
        if self.embedding:
            return self.embedding, "output"
        if self.split is not None:
            return None
        return (self.head, "input") if self.head else None

    @property
    def features_at(self) -> "tuple[tuple[str, Side], ...]":
        return tuple((name, "output") for name in self.features)


@dataclass(frozen=True)
class SubmoduleModel(Model):
    """Base of models whose networks return logits alone; other outputs are read from submodules by their names."""

    # submodule whose output is the embedding; empty for the input of the last linear layer
    embedding: str = field(default="", kw_only=True)
    # submodules whose outputs are the feature maps, one for each stage
    features: tuple[str, ...] = field(default=(), kw_only=True)

    def check(self) -> None:
        self.require(len(set(self.features)) == len(self.features), "features", "names a submodule twice")

    def hooked(self, network: nn.Module, images: ImageSpec, title: str, path: str = "") -> "HookedModel":
        """Return `network`, which was built for `images`, as a HookedModel.

        title: the model's name in messages. path: the user's file, whose lines the messages name.
        """
        read = Submodules() if has_shapes_only() else self._located(network, images, title, path)
        return HookedModel(network, images, read)

    def _located(self, network: nn.Module, images: ImageSpec, title: str, path: str) -> Submodules:
        """Return where to read the network's outputs. A process locates them once for each configuration."""
        key = self, images
        if key not in _located_before:
            remedy = "it must accept float images [B, 3, H, W] of this size; --set input_size of the model, or fix it"
            subject = f"model = {title}: its forward() with an image of {images.size}x{images.size} pixels"
            with errors_of(subject, path, remedy):
                located = locate(network, images, self.embedding, self.features, title)
            if path:  # the networks of libraries return an object with `logits`
                require_logits_in_training(network, images, title)
            _located_before[key] = located
        return _located_before[key]


_located_before: dict[tuple[SubmoduleModel, ImageSpec], Submodules] = {}


def returns_probabilities(model: Model) -> bool:
    """Return whether a network of this configuration, which the process has built, returns no logits but a softmax."""
    return any(read.returns_probabilities for (located, _), read in _located_before.items() if located == model)


class HookedModel(ImageModel):
    """An ImageModel of a plain network, whose `forward` returns logits [B, C], or an object with `logits`.

    Embedding and feature maps are read only after a `request` for them.
    """

    def __init__(self, network: nn.Module, images: ImageSpec, read: Submodules) -> None:
        super().__init__(network, _run_for_embedding if read.returns_embedding else _run_for_logits, images)
        self.read = read
        self._embedding_at: tuple[str, Side] | None = None
        self._features_at: tuple[tuple[str, Side], ...] = ()
        self._needs_embedding = False
        self._captured: dict[tuple[str, Side], Tensor] = {}
        self._hooked: set[tuple[str, Side]] = set()

    def request(self, needs: Collection[str], preactivations: bool = False) -> None:
        super().request(needs, preactivations)
        self._embedding_at = self.read.embedding_at if "embedding" in needs else None
        self._features_at = self.read.features_at if self.with_features else ()
        self._needs_embedding = "embedding" in needs
        for name, side in {*self._features_at, *filter(None, [self._embedding_at])} - self._hooked:
            self.network.get_submodule(name).register_forward_hook(_Capture(self._captured, name, side))
            self._hooked.add((name, side))

    def heads(self) -> list[nn.Module]:
        return [self.network.get_submodule(self.read.head)] if self.read.head else super().heads()

    def run(self, pixels: Tensor) -> Outputs:
        split = self.read.split if self._needs_embedding or self.with_features else None
        outputs = super().run(pixels) if split is None else self._run_split(split, pixels)
        if not self._hooked:
            return outputs
        embedding, features = outputs.embedding, outputs.features
        if self._embedding_at is not None:
            embedding = self._captured[self._embedding_at].flatten(1)
        if self._features_at:
            features = tuple(self._captured[at] for at in self._features_at)
        self._captured.clear()  # activations must not outlive their step
        return Outputs(outputs.logits, embedding, features)

    def _run_split(self, split: SplitForward, pixels: Tensor) -> Outputs:
        """Return logits, embedding and the requested feature maps of one pass through the parts of the network."""
        network: Any = self.network
        if self.with_features and split.stages and not self._features_at:
            hidden, features = network.forward_intermediates(pixels, indices=list(split.stages))
        else:
            hidden, features = network.forward_features(pixels), ()
        embedding = network.forward_head(hidden, pre_logits=True)
        # The head computes the logits from the embedding, so that dropout before it draws only once.
        logits = (
            network.get_submodule(self.read.head)(embedding) if split.applies_head else network.forward_head(hidden)
        )
        return Outputs(logits, embedding.flatten(1), tuple(features))


class _Capture:
    """A forward hook that stores a submodule's input or output. `deepcopy` of a model copies it, unlike a closure."""

    def __init__(self, captured: dict[tuple[str, Side], Tensor], name: str, side: Side) -> None:
        self.captured, self.side = captured, side
        self.key: tuple[str, Side] = name, side

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        self.captured[self.key] = inputs[0] if self.side == "input" else output


def _run_for_logits(network: nn.Module, pixels: Tensor) -> Outputs:
    return Outputs(logits_of(network(pixels)))


def _run_for_embedding(network: nn.Module, pixels: Tensor) -> Outputs:
    embedding = logits_of(network(pixels)).flatten(1)
    return Outputs(embedding[:, :0], embedding)


def logits_of(result: Any) -> Tensor:
    """Return the logits in the result of a network, which is a tensor or an object with the attribute `logits`.

    A network of transformers without a classifier has the embedding as `pooler_output` instead.
    """
    if isinstance(result, Tensor):
        return result
    return result.logits if hasattr(result, "logits") else result.pooler_output


@torch.no_grad()
def require_logits_in_training(network: nn.Module, images: ImageSpec, title: str) -> None:
    """Raise ConfigError if `forward` returns something else in training mode, such as auxiliary outputs.

    A copy runs on two black images, so that the network's statistics and counters do not change. Its errors are left
    to the training, since a network may require larger batches.
    """
    try:
        with torch.random.fork_rng(devices=[]):
            result = copy.deepcopy(network).train()(torch.zeros(2, 3, images.size, images.size))
    except Exception:  # noqa: BLE001 - a user's code may raise anything
        return
    if not isinstance(result, Tensor) and not hasattr(result, "logits") and not hasattr(result, "pooler_output"):
        returned = f"logits, a float tensor [B, {images.num_classes}]" if images.num_classes else "an embedding [B, D]"
        raise ConfigError(
            f"{title}: forward() returns {_kind_of(result)} in training mode, and must return {returned}, in training "
            "too; return it alone, without auxiliary outputs"
        )


@torch.no_grad()
def locate(network: nn.Module, images: ImageSpec, embedding: str, features: tuple[str, ...], title: str) -> Submodules:
    """Return where to read the outputs of `network`, after running it once on a black image of the size of `images`.

    embedding, features: names of submodules that the user set; '' and () for none. title: the network's name in
    messages.

    Raises ConfigError if `forward` returns no logits for the images' classes, for a name that is no submodule, and for
    a submodule whose output has another shape. An error of the network itself passes unchanged.
    """
    if embedding:
        _require_submodule(network, embedding, "embedding", title)
    for name in features:
        _require_submodule(network, name, "features", title)
    with _observed(network) as seen:
        result = network(torch.zeros(1, 3, images.size, images.size))
    returns_embedding = not images.num_classes and logits_of(result).dim() > 1 and logits_of(result).shape[1] > 0
    if not returns_embedding:
        _require_logits(result, images.num_classes, title)
    if embedding:
        _require_output(seen, embedding, "embedding", title)
    for name in features:
        _require_output(seen, name, "features", title)
    linear = [name for name, (module, _, _) in seen.items() if isinstance(module, nn.Linear)]
    head = next((name for name in reversed(linear) if _is_head(*seen[name], logits_of(result))), "")
    if returns_embedding:
        return Submodules(embedding, "", features, returns_embedding)
    split = _split_forward(network, images.size, logits_of(result), head)
    return Submodules(embedding, head, features, False, split, _are_probabilities(logits_of(result)))


def _split_forward(network: Any, size: int, logits: Tensor, head: str) -> SplitForward | None:
    """Return how to run a network by parts, as in timm; None if it lacks them or they compute something else.

    logits: of a black image of `size` pixels per side. head: the linear layer that computes them, or ''.
    """
    parts = [getattr(network, name, None) for name in ("forward_features", "forward_head")]
    if not all(map(callable, parts)) or "pre_logits" not in signature_of(network.forward_head).parameters:
        return None
    pixels = torch.zeros(1, 3, size, size)
    with _observed(network):
        hidden = network.forward_features(pixels)
        embedding = network.forward_head(hidden, pre_logits=True)
        if not torch.equal(network.forward_head(hidden), logits) or not _is_vector(embedding):
            return None
        applies_head = bool(head) and torch.equal(network.get_submodule(head)(embedding), logits)
        if not callable(getattr(network, "forward_intermediates", None)):
            return SplitForward(applies_head)
        listed = feature_stages(network)
        _, maps = network.forward_intermediates(pixels, **({"indices": listed} if listed else {}))
    return SplitForward(applies_head, tuple(listed or range(len(maps))) if all(map(_is_map, maps)) else ())


def describe_candidates(network: nn.Module, size: int, need: Need) -> list[str]:
    """Return descriptions of the submodules that could serve as `need`: 'layer1 [64, 32, 32]', outer ones first."""
    with torch.no_grad(), _observed(network) as seen:
        network(torch.zeros(1, 3, size, size))
    return [f"{name} {list(seen[name][2].shape[1:])}" for name in _outer_first(_fitting(seen, need))]


_Seen = Mapping[str, tuple[nn.Module, Any, Any]]  # name -> module, its first input and its output, in order of running


@contextmanager
def _observed(network: nn.Module) -> Iterator[_Seen]:
    """Yield the inputs and outputs of every submodule, while the network runs in evaluation mode in the context."""
    seen: dict[str, tuple[nn.Module, Any, Any]] = {}

    def observer(name: str) -> Callable[..., None]:
        def observe(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            seen.pop(name, None)  # the last run counts, also for the order
            seen[name] = (module, inputs[0] if inputs else None, output)

        return observe

    modules = [(name, module) for name, module in network.named_modules() if name]
    handles: list[RemovableHandle] = [module.register_forward_hook(observer(name)) for name, module in modules]
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
        for module, is_training in modes:
            module.training = is_training


def _is_head(module: nn.Module, received: Any, returned: Any, logits: Tensor) -> bool:
    """Return whether a linear layer computes the logits from one vector for each image."""
    return isinstance(received, Tensor) and received.dim() == 2 and torch.equal(returned, logits)


def _are_probabilities(logits: Tensor) -> bool:
    return bool((logits >= 0).all()) and bool(((logits.float().sum(1) - 1).abs() < PROBABILITY_TOLERANCE).all())


def _is_vector(output: Any) -> bool:
    """Return whether `output` is one vector for the image: [1, D], or [1, D, 1, 1]."""
    return isinstance(output, Tensor) and (output.dim() == 2 or output.shape[2:] == (1, 1)) and len(output) == 1


def _is_map(output: Any) -> bool:
    return isinstance(output, Tensor) and output.dim() == 4 and len(output) == 1


def _require_submodule(network: nn.Module, name: str, need: Need, title: str) -> None:
    known = [known for known, _ in network.named_modules() if known]
    if name not in known:
        raise ConfigError(
            f"{need} = '{name}' in {title}: is no submodule; it has {_listed(known)}{did_you_mean(name, known)}"
        )


def _require_logits(result: Any, num_classes: int, title: str) -> None:
    required = f"must return logits, a float tensor [B, {num_classes}]"
    if not isinstance(result, Tensor) and not isinstance(getattr(result, "logits", None), Tensor):
        raise ConfigError(f"{title}: forward() returns {_kind_of(result)}, and {required}")
    logits = logits_of(result)
    if logits.dim() != 2 or len(logits) != 1 or not logits.is_floating_point():
        raise ConfigError(f"{title}: forward() returns {_kind_of(logits)} for one image, and {required}")
    if logits.shape[1] != num_classes:
        raise ConfigError(
            f"{title}: forward() returns logits for {logits.shape[1]} classes, and the data has {num_classes}; "
            "make the last layer from num_classes, which __init__ receives"
        )


def _require_output(seen: _Seen, name: str, need: Need, title: str) -> None:
    """Raise ConfigError unless the submodule `name` returned what `need` requires."""
    fitting = _fitting(seen, need)
    if name not in fitting:
        found = f"returns {_kind_of(seen[name][2])}" if name in seen else "forward() does not call it"
        remedy = f"these could serve: {_listed(fitting)}" if fitting else "no submodule could serve"
        raise ConfigError(f"{need} = '{name}' in {title}: {found}, and {_REQUIRED[need]}; {remedy}")


def _fitting(seen: _Seen, need: Need) -> list[str]:
    """Return the submodules that returned what `need` requires, in the order of running."""
    fits: Callable[[Any], bool] = _is_vector if need == "embedding" else _is_map
    return [name for name, (_, _, output) in seen.items() if fits(output)]


def _outer_first(names: list[str]) -> list[str]:
    return sorted(names, key=lambda name: name.count("."))  # stable: in order within one depth


def _listed(names: list[str]) -> str:
    """Return the names for a message, the outer submodules first, and at most NUM_LISTED."""
    more = f" and {len(names) - NUM_LISTED} more" if len(names) > NUM_LISTED else ""
    return ", ".join(_outer_first(names)[:NUM_LISTED]) + more


def _kind_of(value: Any) -> str:
    """Return the type of a value in words, with the shape of a tensor: 'a float32 tensor [1, 64, 8, 8]'."""
    if isinstance(value, Tensor):
        return f"a {str(value.dtype).removeprefix('torch.')} tensor {list(value.shape)}"
    return "nothing" if value is None else f"a value of type {type(value).__name__}"
