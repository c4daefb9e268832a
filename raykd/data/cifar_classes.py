"""What tells CIFAR-10, CIFAR-100 and its coarse labels apart: names of files, columns and classes; statistics."""

from dataclasses import dataclass

IMAGE_SIZE = 32


@dataclass(frozen=True)
class Cifar:
    """One of them.

    folder: below the data folder. batches, archive: torchvision's names, whose class is `reader`. labels: the key of
    its batches. label_column: of the Parquet. mistaken: a remedy for a label that is none of its classes.
    mean, std: of the 50,000 training images, as fractions of 255.
    """

    title: str
    folder: str
    reader: str
    batches: str
    archive: str
    labels: str
    label_column: str
    class_names: tuple[str, ...]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    mistaken: str = ""


_TEN = "airplane automobile bird cat deer dog frog horse ship truck"
_HUNDRED = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant flatfish
forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle
mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine
possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar
sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle wardrobe whale
willow_tree wolf woman worm
"""
_TWENTY = """
aquatic_mammals fish flowers food_containers fruit_and_vegetables household_electrical_devices household_furniture
insects large_carnivores large_man-made_outdoor_things large_natural_outdoor_scenes large_omnivores_and_herbivores
medium_mammals non-insect_invertebrates people reptiles small_mammals trees vehicles_1 vehicles_2
"""


def _cifar100(labels: str, label_column: str, names: str) -> Cifar:
    return Cifar(
        title="CIFAR-100",
        folder="cifar100",
        reader="CIFAR100",
        batches="cifar-100-python",
        archive="cifar-100-python.tar.gz",
        labels=labels,
        label_column=label_column,
        class_names=tuple(names.split()),
        mean=(0.5071, 0.4865, 0.4409),
        std=(0.2673, 0.2564, 0.2762),
    )


CIFARS = {
    "cifar10": Cifar(
        title="CIFAR-10",
        folder="cifar10",
        reader="CIFAR10",
        batches="cifar-10-batches-py",
        archive="cifar-10-python.tar.gz",
        labels="labels",
        label_column="label",
        class_names=tuple(_TEN.split()),
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2470, 0.2435, 0.2616),
        mistaken=" (CIFAR-100 is another dataset)",
    ),
    "cifar100": _cifar100("fine_labels", "fine_label", _HUNDRED),
    "cifar100-coarse": _cifar100("coarse_labels", "coarse_label", _TWENTY),
}
